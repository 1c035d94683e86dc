"""What a real shim says of itself: on SIGUSR1, with -debug, and when it crashes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from tests.machine import pids_with

from dunnage.errors import DunnageError, Unavailable, Unknown
from dunnage.testing.daemon import FakeDaemon, refused

from .harness import LIMIT_S, Shim, ended, in_loop, is_alive, spec, until
from .test_daemon import settled, stand_in

pytestmark = pytest.mark.slow

LINE = re.compile(
    r'time="\S+Z" level=(?P<level>\w+) msg=(?P<msg>"(?:[^"\\]|\\.)*")'
    r"(?: container=(?P<container>\S+))? runtime=\S+ namespace=\S+(?: dropped=\d+)?"
)


class Log:
    """The log of a shim, read as it comes."""

    def __init__(self, shim: Shim, id_: str) -> None:
        self._shim = shim
        self._id = id_
        self.text = ""

    async def until(self, part: str) -> list[tuple[str, str, str]]:
        """Read until a text has come; return level, message and container of each."""
        async with asyncio.timeout(LIMIT_S):
            while part not in self.text:
                self.text += self._shim.log(self._id)
                await asyncio.sleep(0.01)
        return self.records()

    def records(self) -> list[tuple[str, str, str]]:
        """Return what has come; every line must be a record."""
        found = []
        for line in self.text.splitlines():
            match = LINE.fullmatch(line)
            assert match, line
            message = json.loads(match["msg"])
            found.append((match["level"], message, match["container"] or ""))
        return found


@in_loop
async def test_sigusr1_tells_what_is_stuck(tmp_path: Path) -> None:
    """States, calls and operations with their time, the backlog and why, and stacks."""
    async with Shim(tmp_path) as shim:
        sleeps = 'case "$*" in *exec*) exec sleep 1000;; esac'
        shim.runtime = stand_in(tmp_path, sleeps)
        await shim.up("c", ["sleep", "1000"])
        created = await shim.call("c", "create")
        await shim.wait_for_event("TaskCreate")
        await shim.close_events()
        async with FakeDaemon(f"{shim.address}.ttrpc") as daemon:
            daemon.then = refused(Unavailable("not today"))
            await shim.call("c", "start")
            await shim.exec("c", "e", ["true"])
            start = asyncio.create_task(shim.call("c", "start", exec_id="e"))
            wait = asyncio.create_task(shim.call("c", "wait"))
            await until(lambda: len(daemon.heard) > 2)
            server = (await shim.call("c", "connect")).shim_pid
            log = Log(shim, "c")
            os.kill(server, signal.SIGUSR1)
            records = await log.until("dump: end")
            said = [text for level, text, _ in records if level == "info"]
            assert f"dump: init is running, pid {created.pid}" in said
            assert "dump: exec e is created, pid 0, start in flight" in said
            dumped = {text: id_ for _, text, id_ in records if " is running" in text}
            assert ["c"] == list(dumped.values())
            for what in (
                "call Start e of c",
                "operation Start e of c",
                "call Wait of c",
            ):
                assert re.search(rf"dump: {what} for \d+\.\d s", "\n".join(said)), what
            backlog = (
                r"dump: 2 events wait, the first for \d+\.\d s: /tasks/start "
                rf'container_id: "c" pid: {created.pid}: answer 14: not today'
            )
            assert [text for text in said if re.fullmatch(backlog, text)]
            stacks = [text for text in said if "coroutine" in text]
            assert any("TaskService._start (" in text for text in stacks)
            assert any("Publisher._back_off (" in text for text in stacks)
            # It tells, and changes nothing.
            assert is_alive(server)
            assert 2 == (await shim.call("c", "state")).status
            await shim.kill_shim("c")
            assert isinstance(await settled(start), DunnageError)
            assert isinstance(await settled(wait), DunnageError)


@in_loop
async def test_sigusr1_right_after_start_kills_nobody(tmp_path: Path) -> None:
    """Also while the server is not there yet, the signal ends nothing."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", spec(["true"]))
        done = await asyncio.to_thread(shim.start_action, "c")
        for pid in pids_with(shim.namespace):
            os.kill(pid, signal.SIGUSR1)
        await shim.connect("c", done.stdout)
        assert (await shim.call("c", "connect")).shim_pid


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGABRT])
@in_loop
async def test_a_crash_leaves_a_traceback(tmp_path: Path, signum: int) -> None:
    """What a fatal signal finds the shim doing is logged; the signal still ends it."""
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        server = (await shim.call("c", "connect")).shim_pid
        os.kill(server, signum)
        await ended(server)
        log = shim.log("c")
        assert "Fatal Python error: " in log
        assert re.search(r'daemon\.py", line \d+ in serve', log)


@in_loop
async def test_a_crash_with_a_full_log_ends_too(tmp_path: Path) -> None:
    """A traceback that does not fit is lost; the shim does not wait to write it."""
    async with Shim(tmp_path) as shim:
        directory = shim.bundle("c", spec(["true"]))
        full = os.open(directory / "log", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(full, bytes(1 << 20))
            done = await asyncio.to_thread(shim.start_action, "c")
            await shim.connect("c", done.stdout)
            server = (await shim.call("c", "connect")).shim_pid
            os.kill(server, signal.SIGUSR1)  # a dump does not wait either
            await shim.call("c", "connect")
            os.kill(server, signal.SIGSEGV)
            await ended(server)
        finally:
            os.close(full)


@in_loop
async def test_a_log_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    """Without a reader, and with its name unlinked, the shim says what it likes."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sh", "-c", "exit 3"])
        (shim.bundles / "c" / "log").unlink()
        shim.close_log("c")
        server = (await shim.call("c", "connect")).shim_pid
        for _ in range(100):  # far more than a pipe holds
            os.kill(server, signal.SIGUSR1)
            await shim.call("c", "connect")
        await shim.call("c", "create")
        await shim.call("c", "start")
        assert 3 == (await shim.call("c", "wait")).exit_status


_BUGGY = """#!{python}
import sys
from dunnage.shim import main, service

def pids(self):
    raise RuntimeError("planted\\nin two lines")

service._container = pids
sys.exit(main.main())
"""


@in_loop
async def test_a_bug_is_one_record_of_its_container(tmp_path: Path) -> None:
    """Its traceback is in a line of the log, its type and text in the answer."""
    binary = tmp_path / "containerd-shim-dunnage-v2"
    binary.write_text(_BUGGY.format(python=sys.executable))
    binary.chmod(0o755)
    (tmp_path / "s").mkdir()
    async with Shim(tmp_path / "s", binary) as shim:
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        with pytest.raises(Unknown, match=r"^RuntimeError: planted\nin two lines$"):
            await shim.call("c", "pids")
        log = Log(shim, "c")
        records = await log.until("planted")
        (bug,) = [it for it in records if "planted" in it[1]]
        level, message, container = bug
        assert ("error", "c") == (level, container)
        assert "Traceback (most recent call last):\n" in message
        assert 2 < len(message.splitlines())
        assert 1 == (await shim.call("c", "state")).status  # created


@pytest.mark.parametrize("debug", [True, False])
@in_loop
async def test_debug_tells_each_call_and_run(tmp_path: Path, debug: bool) -> None:
    """With -debug each call and run of the runtime is a record with its time."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", spec(["true"]))
        done = await asyncio.to_thread(shim.start_action, "c", debug=debug)
        await shim.connect("c", done.stdout)
        with pytest.raises(DunnageError):
            await shim.call("c", "state")
        for name in ("create", "start", "wait", "delete"):
            await shim.call("c", name)
        server = (await shim.call("c", "connect")).shim_pid
        log = Log(shim, "c")
        os.kill(server, signal.SIGUSR1)
        records = await log.until("dump: end")
        told = [(text, id_) for level, text, id_ in records if level == "debug"]
        if not debug:
            assert [] == told
            return
        for name in ("Create", "Start", "Wait", "Delete"):
            (id_,) = {i for t, i in told if re.match(rf"call {name}: done after \d", t)}
            assert "c" == id_
        assert [t for t, _ in told if t.startswith("call State: NotFound: container")]
        assert ["c"] == [i for t, i in told if t.startswith("removed: ")]
        for name in ("create", "start"):
            run = rf"runc .* {name} .*: exit status 0 after \d+\.\d{{3}} s"
            assert [i for t, i in told if re.fullmatch(run, t)] == ["c"]
