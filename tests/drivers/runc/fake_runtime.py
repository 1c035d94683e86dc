"""A runtime of a few lines of shell: it does as runc does, and tells what it heard."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec

from dunnage.bootstrap import bundle
from dunnage.drivers.contract import Creation, Streams
from dunnage.drivers.runc import Options, RuncDriver
from dunnage.drivers.runc.container import RuncContainer
from dunnage.host.procs import Children, set_child_subreaper
from dunnage.host.stdio import Held

LIMIT_S = 10.0

_SCRIPT = r"""#!/bin/sh
here=@
echo "$*" >>$here/calls
while :; do case $1 in
    --root) root=$2; shift 2;;
    --log) log=$2; shift 2;;
    --log-format|--criu) shift 2;;
    --systemd-cgroup) shift;;
    *) break;;
esac; done
command=$1; shift
all="$*"
while :; do case $1 in
    --bundle|--process|--parent-path) shift 2;;
    --image-path) image=$2; shift 2;;
    --work-path) work=$2; shift 2;;
    --pid-file) pid_file=$2; shift 2;;
    --format) shift 2;;
    --*) shift;;
    *) break;;
esac; done
id=$1; signal=$2
fail() { echo "{\"level\": \"error\", \"msg\": \"$1\"}" >>$log; exit 1; }
if [ -e $here/$command ]; then . $here/$command; fi
case $command in
    create|restore) mkdir -p $root/$id
        sleep 1000 & echo $! >$root/$id/pid; printf %s $! >$pid_file;;
    exec) sleep 1000 & printf %s $! >$pid_file;;
    kill) kill -$signal $(cat $root/$id/pid) 2>/dev/null || {
        echo "container not running" >&2; exit 1; };;
    delete) kill -9 $(cat $root/$id/pid 2>/dev/null) 2>/dev/null; rm -rf $root/$id;;
    ps) echo "[7, 8]";;
esac
"""

P = ParamSpec("P")


def as_shim(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in a process of its own, which gets all orphans, as a shim does."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                set_child_subreaper()
                asyncio.run(test(*args, **kwargs))
            except BaseException:
                os.write(write_end, traceback.format_exc().encode()[-60000:])
            finally:
                _kill_children()
                os._exit(0)
        os.close(write_end)
        with open(read_end, "rb") as report:
            said = report.read().decode()
        os.waitpid(pid, 0)
        assert not said, said

    return run


def _kill_children() -> None:
    """End what a test that has failed did not; orphans may come while we look."""
    with contextlib.suppress(ChildProcessError):
        while True:
            listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
            for pid in listed.split():
                os.kill(int(pid), signal.SIGKILL)
            os.waitpid(-1, 0)


class FakeRuntime:
    """A bundle, and the runtime to run it with."""

    def __init__(self, directory: Path, children: Children) -> None:
        self.directory = directory
        self.bundle = directory / "bundle"
        self.bundle.mkdir()
        self.program = directory / "fake"
        self.program.write_text(_SCRIPT.replace("@", str(directory)))
        self.program.chmod(0o755)
        self.root = directory / "root"
        self.options = Options(binary_name=str(self.program), root=str(self.root))
        self.children = children
        self.held = Held()

    @property
    def state(self) -> Path:
        """Return where the runtime keeps its container."""
        return self.root / "ns" / "c"

    def on(self, command: str, script: str) -> None:
        """Have a command do something first: perhaps ``fail TEXT``, or ``exit``."""
        (self.directory / command).write_text(script)

    def calls(self) -> list[str]:
        """Return the calls so far, without what is usual; no log is not."""
        text = (self.directory / "calls").read_text()
        log = f"--log {self.bundle}/{bundle.RUNTIME_LOG} --log-format json "
        prefix = f"--root {self.root}/ns "
        lines = [line.removeprefix(prefix) for line in text.splitlines()]
        lines = [line.replace(log, "") for line in lines]
        no_log = f"--log {os.devnull} --log-format json "
        lines = [line.replace(no_log, "(no log) ") for line in lines]
        return [line.replace(str(self.bundle), "BUNDLE") for line in lines]

    async def create(
        self,
        streams: Streams | None = None,
        *,
        checkpoint: str = "",
        parent_checkpoint: str = "",
        **options: Any,
    ) -> RuncContainer:
        """Create the container ``c``."""
        values = {name: getattr(self.options, name) for name in ("binary_name", "root")}
        chosen = Options(**(values | options))
        driver = RuncDriver(self.children, chosen, "ns", self.held)
        creation = Creation(
            *("c", str(self.bundle), (), streams or Streams()),
            checkpoint=checkpoint,
            parent_checkpoint=parent_checkpoint,
        )
        container = await driver.create(creation)
        assert isinstance(container, RuncContainer)
        return container
