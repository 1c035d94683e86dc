"""Calling the runtime: with what, and what its failure says."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from dunnage.drivers.runc import Options
from dunnage.drivers.runc.command import Command
from dunnage.errors import ResourceExhausted, Unknown
from dunnage.host.procs import Children

from .fake_runtime import LIMIT_S, FakeRuntime, as_shim


def command(fake: FakeRuntime, **options: object) -> Command:
    """Return the command line for the container ``c``."""
    values = {"binary_name": str(fake.program), "root": str(fake.root)} | options
    return Command(fake.children, Options(**values), "ns", "c")  # type: ignore[arg-type]  # of the test's own making


def null() -> tuple[int, int, int]:
    """Return streams to nowhere."""
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    return fd, fd, fd


@as_shim
async def test_only_new_errors_count(tmp_path: Path) -> None:
    """The log is appended to for all of a life: an old error is not told again."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        log = f"{fake.bundle}/log.json"
        fake.on("start", "fail first")
        with pytest.raises(Unknown, match=r"^P: first$"):
            await command(fake).logged("P", ["start"], log)
        fake.on("start", "exit 3")
        with pytest.raises(Unknown, match=r"exit status 3$") as caught:
            await command(fake).logged("P", ["start"], log)
        assert "first" not in str(caught.value)
        fake.on("start", "fail second")
        for _ in range(2):
            with pytest.raises(Unknown, match=r"^P: second$"):
                await command(fake).attached("P", ["start"], log, null(), "/")
        fake.on("start", "")
        await command(fake).logged("P", ["start"], log)
        await command(fake).attached("P", ["start"], log, null(), "/")


@as_shim
async def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A runtime that never wrote a log: the text says so, and how it ended."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.on("start", "kill -9 $$")
        log = f"{fake.bundle}/log.json"
        expected = rf"^P: unable .*\(open {log}: no such file or directory\): .*killed$"
        with pytest.raises(Unknown, match=expected):
            await command(fake).logged("P", ["start"], log)


@as_shim
async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    """However it is called."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        missing = command(fake, binary_name="no-such-runtime")
        log = f"{fake.bundle}/log.json"
        expected = r'exec: "no-such-runtime": executable file not found in \$PATH$'
        with pytest.raises(Unknown, match=expected):
            await missing.logged("P", ["start"], log)
        with pytest.raises(Unknown, match=expected):
            await missing.attached("P", ["start"], log, null(), "/")
        with pytest.raises(Unknown, match=expected):
            await missing.plain(["ps"])


@as_shim
async def test_a_full_disk_keeps_a_log_from_saying_so(tmp_path: Path) -> None:
    """A failure that has left half a log, or none, for want of room is told as that."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.on("start", "exit 1")
        # No log at all, on a file system that has no blocks at all.
        with pytest.raises(ResourceExhausted, match="no space left on device"):
            await command(fake).logged("P", ["start"], "/proc/self/oom_score")


@as_shim
async def test_a_call_that_is_given_up_is_killed(tmp_path: Path) -> None:
    """Cancelled, whichever way it was made, it leaves no runtime behind."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.on("start", f"echo $$ >{tmp_path}/pid; exec sleep 1000")
        log = f"{fake.bundle}/log.json"
        for call in (
            command(fake).logged("P", ["start"], log),
            command(fake).attached("P", ["start"], log, null(), "/"),
            command(fake).plain(["start"]),
        ):
            task = asyncio.create_task(call)
            async with asyncio.timeout(LIMIT_S):
                while not (told := read(tmp_path / "pid")):
                    await asyncio.sleep(0.001)
                task.cancel()
                while Path(f"/proc/{told}").exists():
                    await asyncio.sleep(0.001)
            with pytest.raises(asyncio.CancelledError):
                await task
            (tmp_path / "pid").unlink()


def read(path: Path) -> str:
    """Return what is in a file, nothing if it is not there."""
    return path.read_text().strip() if path.exists() else ""


@as_shim
async def test_systemd_is_not_talked_to(tmp_path: Path) -> None:
    """NOTIFY_SOCKET would have runc wait for systemd; the rest is passed on."""
    os.environ |= {"NOTIFY_SOCKET": "/x", "OTHER": "kept"}  # in a process of our own
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.on("ps", 'echo "${NOTIFY_SOCKET-none} $OTHER"; exit')
        assert b"none kept\n" == await command(fake).plain(["ps"])


@as_shim
async def test_the_order_of_arguments(tmp_path: Path) -> None:
    """Globals, command, its options, the id, and what follows the id."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        plain = command(fake, systemd_cgroup=True).plain
        with pytest.raises(Unknown, match="container not running"):
            await plain(["kill", "--all"], str(int(signal.SIGTERM)))
        assert ["--systemd-cgroup (no log) kill --all c 15"] == fake.calls()
        assert f"{fake.root}/ns/c" == command(fake).state_directory
