"""What is over is freed at once: a life leaves nothing for the garbage collector.

The collector is asked, in the shim, what it would have had to free: whatever leads back
to itself stays until it runs, which in a shim at rest is never.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from tests.shim.harness import Shim, in_loop, spec, until
from tests.shim.test_terminal import terminal_spec

from dunnage.errors import DunnageError

pytestmark = pytest.mark.slow

ROUNDS: Final = 2
_WATCHED: Final = """#!{python}
import collections, gc, os, signal, sys
from dunnage.shim import main
def ask(*_):
    gc.disable()
    gc.collect()
    kinds = collections.Counter(type(each).__qualname__ for each in gc.garbage)
    gc.garbage.clear()
    gc.set_debug(0)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    with open("{answer}.new", "w") as file:
        print(*sorted(kinds.items()), sep="\\n", end="", file=file)
    os.rename("{answer}.new", "{answer}")
signal.signal(signal.SIGUSR2, ask)
sys.exit(main.main())
"""


def watched(directory: Path) -> Path:
    """Make a shim binary that tells on SIGUSR2 what has become garbage since the last.

    From the first on it collects none by itself.
    """
    binary = directory / "containerd-shim-dunnage-v2"
    answer = directory / "garbage"
    binary.write_text(_WATCHED.format(python=sys.executable, answer=answer))
    binary.chmod(0o755)
    return binary


async def garbage(shim: Shim, pid: int) -> str:
    """Return what has become garbage, a line for each type; empty for nothing."""
    answer = shim.directory / "garbage"
    answer.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    await until(answer.exists)
    return answer.read_text()


# -- lives: each of a container that has its bundle, up to its delete


@contextlib.asynccontextmanager
async def reading(shim: Shim, name: str) -> AsyncIterator[Callable[[], bytes]]:
    """Make a fifo, hold it open, and yield what reads what is in it."""
    path = shim.directory / name
    os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield lambda: os.read(fd, 1 << 16)
    finally:
        os.close(fd)
        path.unlink()


async def brief(shim: Shim, id_: str) -> None:
    """An init that says something and ends."""
    async with reading(shim, "out") as read:
        out = str(shim.directory / "out")
        await shim.call(id_, "create", stdout=out, stderr=out)
        await shim.call(id_, "start")
        assert 3 == (await shim.call(id_, "wait")).exit_status
        await shim.call(id_, "delete")
        assert b"hello\n" == read()


async def execs(shim: Shim, id_: str) -> None:
    """One that ends by itself, one that is killed, one that dies with its init."""
    await shim.call(id_, "create")
    await shim.call(id_, "start")
    async with reading(shim, "out") as read:
        out = str(shim.directory / "out")
        await shim.exec(id_, "a", ["echo", "x"], stdout=out)
        await shim.call(id_, "start", exec_id="a")
        await shim.call(id_, "wait", exec_id="a")
        await shim.call(id_, "delete", exec_id="a")
        assert b"x\n" == read()
    for name in "bk":
        await shim.exec(id_, name, ["sleep", "1000"])
        await shim.call(id_, "start", exec_id=name)
    waits = [asyncio.create_task(shim.call(id_, "wait", exec_id=e)) for e in "bk"]
    await shim.call(id_, "pids")
    await shim.call(id_, "kill", exec_id="b", signal=15)
    assert 143 == (await waits[0]).exit_status
    await shim.call(id_, "kill", signal=9)
    assert 137 == (await waits[1]).exit_status
    await shim.call(id_, "wait")
    for name in "bk":
        await shim.call(id_, "delete", exec_id=name)
    await shim.call(id_, "delete")


async def terminal(shim: Shim, id_: str) -> None:
    """An init and an exec, each at a terminal with somebody who reads it."""
    async with reading(shim, "out") as read, reading(shim, "out-e") as read_exec:
        streams: dict[str, Any] = {"stdout": str(shim.directory / "out")}
        streams["terminal"] = True
        await shim.call(id_, "create", **streams)
        await shim.call(id_, "resize_pty", width=80, height=25)
        await shim.call(id_, "start")
        streams["stdout"] += "-e"
        await shim.exec(id_, "e", ["echo", "x"], **streams)
        await shim.call(id_, "start", exec_id="e")
        await shim.call(id_, "wait", exec_id="e")
        await shim.call(id_, "delete", exec_id="e")
        assert b"x\r\n" == read_exec()
        await shim.call(id_, "kill", signal=9)
        await shim.call(id_, "wait")
        await shim.call(id_, "delete")
        assert b"hello\r\n" == read()


async def logged(shim: Shim, id_: str) -> None:
    """Loggers that are never ready, that die, and that end; and a file."""
    program = shim.directory / "logger"
    out = shim.directory / "kept"

    def written(text: str) -> str:
        program.write_text(f"#!/bin/sh\n{text}")
        program.chmod(0o700)
        return f"binary://{program}?{shim.directory}"

    uri = written("exit 1")
    with pytest.raises(DunnageError, match="call ready"):
        await shim.call(id_, "create", stdout=uri, stderr=uri)
    written("echo >&5; mkdir $1/died && exit 1; rmdir $1/died; cat <&3 >>$1/kept")
    await shim.call(id_, "create", stdout=uri, stderr=f"file://{out}-e")
    await shim.call(id_, "start")
    await shim.exec(id_, "e", ["echo", "x"], stdout=f"file://{out}-e", stderr=uri)
    await shim.call(id_, "start", exec_id="e")
    await shim.call(id_, "wait", exec_id="e")
    await shim.call(id_, "delete", exec_id="e")
    await shim.call(id_, "kill", signal=9)
    assert 137 == (await shim.call(id_, "wait")).exit_status
    await shim.call(id_, "delete")
    assert "hello\n" == out.read_text()
    out.unlink()


async def paused(shim: Shim, id_: str) -> None:
    """Frozen, thawed, frozen again, and killed."""
    await shim.call(id_, "create")
    await shim.call(id_, "start")
    for method in ("pause", "resume", "pause"):
        await shim.call(id_, method)
    await shim.call(id_, "kill", signal=9, all=True)
    await shim.call(id_, "wait")
    await shim.call(id_, "delete")


async def shared(shim: Shim, id_: str) -> None:
    """Init dies, and what it leaves in the host's pid namespace is killed."""
    await shim.call(id_, "create")
    await shim.call(id_, "start")
    await shim.exec(id_, "e", ["sleep", "1000"])
    await shim.call(id_, "start", exec_id="e")
    await shim.call(id_, "kill", signal=9)
    await shim.call(id_, "wait")
    await shim.call(id_, "delete", exec_id="e")
    await shim.call(id_, "delete")


async def refused(shim: Shim, id_: str) -> None:
    """All kinds of requests that cannot be done, and a container never started."""

    async def refusal(method: str, **fields: Any) -> None:
        with pytest.raises(DunnageError):
            await shim.call(id_, method, **fields)

    no_mount = [{"type": "ext4", "source": "/no/such", "options": []}]
    await refusal("create", rootfs=no_mount)
    await refusal("create", stdout="file://no/such")
    await refusal("create", rootfs=[])  # the runtime says no
    await refusal("state")
    await shim.call(id_, "create")
    await refusal("create")
    await refusal("exec", exec_id="e", spec={"type_url": "x", "value": b"{"})
    await shim.exec(id_, "e", ["sleep", "1000"])
    await refusal("kill", exec_id="e", signal=9)
    await shim.call(id_, "delete", exec_id="e")
    await refusal("start", exec_id="nobody")
    await refusal("delete", exec_id="nobody")
    await refusal("pause")
    waiting = asyncio.create_task(shim.call(id_, "wait"))
    await shim.call(id_, "delete")
    await waiting


_Life: TypeAlias = Callable[[Shim, str], Coroutine[Any, Any, None]]

HELLO: Final = ["sh", "-c", "echo hello; exit 3"]
KINDS: Final[dict[_Life, Callable[[], dict[str, Any]]]] = {
    brief: lambda: spec(HELLO),
    execs: lambda: spec(["sleep", "1000"]),
    logged: lambda: spec(["sh", "-c", "echo hello; exec sleep 1000"]),
    terminal: lambda: terminal_spec(["sh", "-c", "echo hello; sleep 1000"]),
    paused: lambda: spec(["sleep", "1000"]),
    shared: lambda: spec(["sleep", "1000"], linux=_host_pids()),
    refused: lambda: spec(["sleep", "1000"]),
}


def _host_pids() -> dict[str, Any]:
    linux: dict[str, Any] = spec([])["linux"]
    spaces = linux["namespaces"]
    return linux | {"namespaces": [s for s in spaces if s["type"] != "pid"]}


@pytest.mark.parametrize("life", KINDS, ids=lambda life: life.__name__)
@in_loop
async def test_a_life_leaves_no_garbage(tmp_path: Path, life: _Life) -> None:
    """no-growth: of the first of a shim and of a member, with runc and with crun."""
    async with Shim(tmp_path, binary=watched(tmp_path)) as shim:
        await shim.up("c", config=KINDS[life]())
        shim.member("d", "c", KINDS[life]())
        pid = (await shim.call("c", "connect")).shim_pid
        found = []
        for turn in range(ROUNDS):
            for runtime in ("runc", "crun"):
                shim.runtime = runtime
                for id_ in ("c", "d"):
                    await life(shim, id_)
                    # Its delete was said, and the last runtime is reaped.
                    await shim.call(id_, "connect")
                    found.append((turn, runtime, id_, await garbage(shim, pid)))
        # The first census also tells what the start has left, and begins the watch.
        assert [] == [each for each in found[1:] if each[-1]]
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
