"""Shims are found, started and cleaned up after, with what they expect."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dunnage.api.task_v2_pb2 import DeleteResponse
from dunnage.bootstrap import wire
from dunnage.bootstrap.endpoint import Endpoint
from dunnage.descriptors import Any, Timestamp
from dunnage.errors import DeadlineExceeded, DunnageError, InvalidArgument, NotFound
from dunnage.manager import bundles, launch
from dunnage.manager.launch import Shim, find_binary, reading_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from dunnage.manager.bundles import Bundle
    from dunnage.manager.places import Places

OPTIONS = wire.Options("some.Options", b"\x08\x01")


@pytest.fixture
def bundle(places: Places) -> Bundle:
    """A bundle to start a shim in."""
    return bundles.create(places, "c", b"{}")


@pytest.fixture
def shim(places: Places, tmp_path: Path) -> Callable[[str], Shim]:
    """Return what makes a shim of a shell script."""

    def make(script: str) -> Shim:
        path = tmp_path / "containerd-shim-fake-v2"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return Shim(path, places)

    return make


def test_find_by_path(tmp_path: Path) -> None:
    """A path is taken as it is, if there is something to execute."""
    path = tmp_path / "shim"
    with pytest.raises(NotFound):
        find_binary(str(path))
    path.touch()
    with pytest.raises(NotFound):
        find_binary(str(path))
    path.chmod(0o755)
    assert find_binary(str(path)) == path
    with pytest.raises(NotFound):
        find_binary(str(tmp_path))


def test_find_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last two parts of a name make the binary's; PATH goes before our own."""
    ours = find_binary("io.containerd.dunnage.v2")
    assert ours.name == "containerd-shim-dunnage-v2"
    theirs = tmp_path / ours.name
    theirs.touch(0o755)
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    assert find_binary("a.dunnage.v2") == theirs
    with pytest.raises(NotFound, match="containerd-shim-nope-v9"):
        find_binary("io.containerd.nope.v9")


@pytest.mark.parametrize("name", ["", "runc", "a/b.c", "./a.b", ".a", "a..b", "a.b."])
def test_bad_name(name: str) -> None:
    """What is neither a name nor an absolute path is refused."""
    with pytest.raises(InvalidArgument, match="invalid runtime name"):
        find_binary(name)


def test_start(places: Places, bundle: Bundle, shim: Callable[[str], Shim]) -> None:
    """A shim is called with containerd's argv, environment, directory and stdin."""
    it = shim("env >env; echo $@ >argv; cat >stdin; ps -o pgid= $$ >pgid; echo /sock")
    found = asyncio.run(it.start(bundle, OPTIONS))
    assert found == Endpoint("/sock", 2, "ttrpc")
    path = bundle.path
    assert (path / "argv").read_text().split() == [
        *("-namespace", "test", "-address", places.address, "-id", "c", "start")
    ]
    environment = (path / "env").read_text().splitlines()
    assert f"TTRPC_ADDRESS={places.events_socket}" in environment
    packed = Any.FromString((path / "stdin").read_bytes())
    assert (packed.type_url, packed.value) == OPTIONS
    assert int((path / "pgid").read_text()) != os.getpgrp()
    assert (path / "shim-binary-path").read_text() == str(it.binary)
    assert Shim.of(bundle, places) == it
    assert "/sock" in (path / "bootstrap.json").read_text()


@pytest.mark.parametrize(
    "answer",
    [
        """printf '{"version": 3, "address": "unix:///a", "protocol": "ttrpc"}'""",
        r"printf '\010\003\022\011unix:///a\032\005ttrpc'",
    ],
)
def test_start_answers(
    bundle: Bundle, shim: Callable[[str], Shim], answer: str
) -> None:
    """Every form of answer is understood."""
    found = asyncio.run(shim(answer).start(bundle, None))
    assert found == Endpoint("unix:///a", 3, "ttrpc")


def test_start_fails(bundle: Bundle, shim: Callable[[str], Shim]) -> None:
    """What a shim says when it fails, on either stream, is the error."""
    it = shim("echo one; echo two >&2; exit 3")
    with pytest.raises(DunnageError, match=r"(?s)one.two: exit status 3"):
        asyncio.run(it.start(bundle, None))
    with pytest.raises(DunnageError, match=r"SIGKILL"):
        asyncio.run(shim("kill -9 $$").start(bundle, None))
    with pytest.raises(InvalidArgument):
        asyncio.run(shim("true").start(bundle, None))


def test_binary_that_is_gone(places: Places, bundle: Bundle) -> None:
    """A binary that cannot be executed is an error that names it."""
    with pytest.raises(DunnageError, match=r"/nope: No such file"):
        asyncio.run(Shim(Path("/nope"), places).start(bundle, None))


def test_delete(bundle: Bundle, shim: Callable[[str], Shim], tmp_path: Path) -> None:
    """`delete` is told the bundle; only its stdout is the answer."""
    reply = DeleteResponse(pid=7, exit_status=3, exited_at=Timestamp(seconds=1))
    (tmp_path / "reply").write_bytes(reply.SerializeToString())
    it = shim(f"echo $@ >argv; echo noise >&2; cat {tmp_path}/reply")
    assert asyncio.run(it.delete(bundle)) == wire.Deleted(7, 3, 1_000_000_000)
    argv = (bundle.path / "argv").read_text().split()
    assert argv[-3:] == ["-bundle", str(bundle.path), "delete"]


def test_delete_that_hangs(
    bundle: Bundle, shim: Callable[[str], Shim], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `delete` that does not end is killed, with what it has started."""
    monkeypatch.setattr(launch, "_DELETE_LIMIT_S", 0.2)
    it = shim("sleep 1000 & echo $! >child; wait")
    with pytest.raises(DeadlineExceeded, match="delete: no end after"):
        asyncio.run(it.delete(bundle))
    child = Path("/proc", (bundle.path / "child").read_text().strip(), "stat")
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline


def test_cancelled_start(bundle: Bundle, shim: Callable[[str], Shim]) -> None:
    """A start that is given up leaves no helper."""

    async def scenario() -> None:
        (bundle.path / "pid").unlink(missing_ok=True)
        task = asyncio.ensure_future(
            shim("echo $$ >pid.new; mv pid.new pid; exec sleep 1000").start(
                bundle, None
            )
        )
        async with asyncio.timeout(10):
            while not (bundle.path / "pid").exists():
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ProcessLookupError):
            os.kill(int((bundle.path / "pid").read_text()), 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("debug", [False, True])
def test_log(
    bundle: Bundle, capfdbinary: pytest.CaptureFixture[bytes], debug: bool
) -> None:
    """The log has a reader that never sees an end, and shows what it reads or not."""

    async def scenario() -> None:
        with reading_log(bundle, debug=debug):
            path = bundle.path / "log"
            assert stat.S_ISFIFO(path.stat().st_mode)
            for text in (b"one\n", b"two\n"):
                fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                os.write(fd, text)
                os.close(fd)
                await asyncio.sleep(0)
            big = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            async with asyncio.timeout(10):
                left = 1 << 20
                while left:
                    try:
                        left -= os.write(big, b"x" * min(left, 4096))
                    except BlockingIOError:
                        await asyncio.sleep(0)
            os.close(big)
        with reading_log(bundle):
            pass

    asyncio.run(scenario())
    said = capfdbinary.readouterr().err
    assert said == ((b"one\ntwo\n" + b"x" * (1 << 20)) if debug else b"")


def test_signals_have_names() -> None:
    """How a helper ended is said in words."""
    assert launch._ended(-signal.SIGTERM) == "signal: SIGTERM"
    assert launch._ended(2) == "exit status 2"
