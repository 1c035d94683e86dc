"""OOM kills: what listeners hear of them, and when."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dunnage.drivers.contract import Happening, OomKilled, Process, Streams
from dunnage.host.procs import Children, Exited

from .fake_runtime import FakeRuntime, as_shim

LIMIT = 8 << 20


@pytest.fixture
def group() -> Iterator[Path]:
    """Return a cgroup of v1's memory controller with a limit."""
    path = Path(f"/sys/fs/cgroup/memory/dunnage-test-{secrets.token_hex(4)}")
    path.mkdir()
    for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        (path / name).write_text(str(LIMIT))
    yield path
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()


def have_killed(process: Process, group: Path) -> None:
    """Have a process killed, and then who takes all memory; until all is over."""
    Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
    join = f"echo $$ >{group}/cgroup.procs; exec tail /dev/zero"
    subprocess.run(["busybox", "sh", "-c", join], check=False)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


@as_shim
async def test_told_before_the_exit(tmp_path: Path, group: Path) -> None:
    """An exec's and init's, though the loop has heard no news of either."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        for command in ("create", "exec"):
            fake.on(command, f"echo $$ >{group}/cgroup.procs")
        container = await fake.create()
        inits: list[Happening] = []
        container.listen(inits.append)
        exec_ = container.add_exec("e", b"{}", Streams())
        await exec_.start()
        execs: list[Happening] = []
        exec_.listen(execs.append)
        have_killed(exec_, group)
        children.reap()
        assert [OomKilled()] == inits
        assert [Exited] == [type(what) for what in execs]
        have_killed(container, group)
        children.reap()
        assert [OomKilled, OomKilled, Exited] == [type(what) for what in inits]
        await exec_.release()
        await container.delete()
        await container.release()
