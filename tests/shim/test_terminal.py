"""Terminals, through the shim binary, with real runtimes and real fifos."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dunnage.errors import DunnageError

from .harness import Shim, in_loop, proc_status, spec, until

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
BURST_BYTES = 20_000_000


def terminal_spec(args: list[str]) -> dict[str, Any]:
    """Return a spec whose process has a terminal."""
    made = spec(args)
    made["process"]["terminal"] = True
    made["mounts"].append(
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
        }
    )
    return made


class Client:
    """Somebody at a terminal, who may leave and come back."""

    def __init__(self, directory: Path, name: str) -> None:
        self.stdin, self.stdout = directory / f"{name}-in", directory / f"{name}-out"
        for path in (self.stdin, self.stdout):
            os.mkfifo(path)
        self.said = b""
        self._fds: list[int] = []

    @property
    def fields(self) -> dict[str, Any]:
        """Return what Create and Exec are told."""
        return {
            "stdin": str(self.stdin),
            "stdout": str(self.stdout),
            "terminal": True,
        }

    def attach(self) -> None:
        """Open both fifos; the reader's opening waits for nobody."""
        self._fds = [
            os.open(self.stdout, os.O_RDONLY | os.O_NONBLOCK),
            os.open(self.stdin, os.O_RDWR | os.O_NONBLOCK),
        ]

    def detach(self) -> None:
        """Close them."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)

    def type(self, text: bytes) -> None:
        """Type something."""
        assert len(text) == os.write(self._fds[1], text)

    def paste(self, data: memoryview) -> int:
        """Type as much as there is room for now; return how much that is."""
        with contextlib.suppress(BlockingIOError):
            return os.write(self._fds[1], data)
        return 0

    def read(self) -> bytes:
        """Read what is there; b"" for the end, and for nothing."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fds[0], 1 << 20)
            self.said += data
            return data
        return b""

    def has(self, size: int) -> bool:
        """Read what is there; tell whether that makes ``size`` bytes."""
        self.read()
        return len(self.said) >= size

    async def expect(self, text: bytes) -> None:
        """Read until ``text`` was said."""
        await until(lambda: self.read() is not None and text in self.said)


@contextlib.asynccontextmanager
async def at_terminal(
    tmp_path: Path, runtime: str, args: list[str]
) -> AsyncIterator[tuple[Shim, Client]]:
    """Have a created container ``c`` with a terminal; expect nothing left of it."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", config=terminal_spec(args))
        client = Client(tmp_path, "c")
        client.attach()
        try:
            await shim.call("c", "create", **client.fields)
            before = await fds(shim)
            yield shim, client
            await shim.call("c", "delete")
            after = await fds(shim)
            assert [] == [fd for fd in after if "ptmx" in fd or "/pts/" in fd]
            assert len(after) < len(before)
            await shim.call("c", "shutdown")
            # The shim stays until all was read.
            await until(lambda: not client.read() and not shim.leftovers("c"))
        finally:
            client.detach()


async def fds(shim: Shim) -> list[str]:
    """Return what the shim has open."""
    pid = (await shim.call("c", "connect")).shim_pid
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return sorted(found)


def consoles(shim: Shim) -> list[Path]:
    """Return the directories of console sockets that are there."""
    return list((shim.bundles / "c").glob("console-*"))


@RUNTIMES
@in_loop
async def test_a_shell_at_its_terminal(tmp_path: Path, runtime: str) -> None:
    """Echo, size before and after start, ^C, ^D and the status, as at any terminal."""
    async with at_terminal(tmp_path, runtime, ["sh"]) as (shim, client):
        assert [] == consoles(shim)
        await shim.call("c", "resize_pty", width=99, height=33)
        await shim.call("c", "start")
        client.type(b"tty; stty size\n")
        await client.expect(b"\r\n33 99\r\n")
        assert b"/dev/pts/0\r\n" in client.said or b"/dev/console" in client.said
        await shim.call("c", "resize_pty", width=132, height=43)
        client.type(b"stty size\n")
        await client.expect(b"\r\n43 132\r\n")
        client.type(b"sh -c 'echo go; exec sleep 1000'\n")
        await client.expect(b"\r\ngo\r\n")
        client.said = b""
        client.type(b"\x03")
        # A prompt is the proof that the shell reads again: what is typed between two
        # modes of its terminal may get lost, here as anywhere.
        await client.expect(b"/ # ")
        client.type(b"echo status $?\n")
        await client.expect(b"\r\nstatus 130\r\n/ # ")
        client.said = b""
        client.type(b"(exit 7)\n")
        await client.expect(b"/ # ")
        client.type(b"\x04")
        assert (await shim.call("c", "wait")).exit_status == 7
        state = await shim.call("c", "state")
        assert state.terminal
        await shim.call("c", "resize_pty", width=1, height=1)


@RUNTIMES
@in_loop
async def test_an_exec_with_a_terminal(tmp_path: Path, runtime: str) -> None:
    """An exec has a terminal of its own, whether its container has one or not."""
    async with at_terminal(tmp_path, runtime, ["sleep", "1000"]) as (shim, _):
        await shim.call("c", "start")
        held = await fds(shim)
        for number in range(3):
            client = Client(tmp_path, f"e{number}")
            client.attach()
            exec_id = f"e{number}"
            await shim.exec("c", exec_id, ["sh"], **client.fields)
            await shim.call("c", "resize_pty", exec_id=exec_id, width=5, height=5)
            await shim.call("c", "start", exec_id=exec_id)
            await shim.call("c", "resize_pty", exec_id=exec_id, width=77, height=11)
            client.type(b"stty size; exit 5\n")
            await client.expect(b"\r\n11 77\r\n")
            wait = await shim.call("c", "wait", exec_id=exec_id)
            assert wait.exit_status == 5
            with pytest.raises(DunnageError, match="cannot resize a stopped container"):
                await shim.call("c", "resize_pty", exec_id=exec_id, width=1, height=1)
            await shim.call("c", "delete", exec_id=exec_id)
            client.detach()
            assert held == await fds(shim)
        assert [] == consoles(shim)
        await shim.call("c", "kill", signal=9)
        await shim.call("c", "wait")


@RUNTIMES
@in_loop
async def test_bursts_without_a_loss(tmp_path: Path, runtime: str) -> None:
    """20 MB at once, right before the end, arrive to the last byte."""
    script = f"stty raw; head -c {BURST_BYTES} /tmp/data"
    data = os.urandom(1 << 16) * (BURST_BYTES // (1 << 16) + 1)
    async with at_terminal(tmp_path, runtime, ["sh", "-c", script]) as (shim, client):
        (shim.rootfs / "tmp/data").write_bytes(data)
        await shim.call("c", "start")
        await until(lambda: client.read() is not None and len(client.said) >= 1 << 20)
        wait = asyncio.create_task(shim.call("c", "wait"))
        await until(
            lambda: client.read() is not None and len(client.said) >= BURST_BYTES
        )
        assert (await wait).exit_status == 0
        assert data[:BURST_BYTES] == client.said


@RUNTIMES
@in_loop
async def test_a_burst_of_input(tmp_path: Path, runtime: str) -> None:
    """20 MB pasted into a terminal, faster than they are read, arrive unchanged."""
    data = os.urandom(BURST_BYTES)
    # What reads it is slow at first: the terminal fills up, and input waits.
    script = f"stty raw -echo; echo go; sleep 1; head -c {BURST_BYTES} | sha256sum"
    async with at_terminal(tmp_path, runtime, ["sh", "-c", script]) as (shim, client):
        await shim.call("c", "start")
        await client.expect(b"go\n")
        wait = asyncio.create_task(shim.call("c", "wait"))
        rest = memoryview(data)
        while rest:
            rest = rest[client.paste(rest) :]
            assert not wait.done()
            await asyncio.sleep(0.001)
        await client.expect(hashlib.sha256(data).hexdigest().encode())
        assert (await wait).exit_status == 0


@RUNTIMES
@in_loop
async def test_a_burst_and_a_reader_that_leaves(tmp_path: Path, runtime: str) -> None:
    """20 MB of an exec whose client goes and comes back in their midst: all arrive."""
    data = os.urandom(1 << 16) * (BURST_BYTES // (1 << 16) + 1)
    async with at_terminal(tmp_path, runtime, ["sleep", "1000"]) as (shim, _):
        (shim.rootfs / "tmp/data").write_bytes(data)
        await shim.call("c", "start")
        client = Client(tmp_path, "e")
        client.attach()
        script = f"stty raw; exec head -c {BURST_BYTES} /tmp/data"
        await shim.exec("c", "e", ["sh", "-c", script], **client.fields)
        pid = (await shim.call("c", "start", exec_id="e")).pid
        for size in range(1 << 20, BURST_BYTES, 5 << 20):
            await until(partial(client.has, size))
            client.detach()
            # It stands still: the terminal is full, and nobody is hurt.
            await until(lambda: proc_status(pid)["State"].startswith("S"))
            client.attach()
        await until(partial(client.has, BURST_BYTES))
        wait = await shim.call("c", "wait", exec_id="e")
        assert wait.exit_status == 0
        assert data[:BURST_BYTES] == client.said
        await shim.call("c", "delete", exec_id="e")
        client.detach()
        await shim.call("c", "kill", signal=9)
        await shim.call("c", "wait")


@RUNTIMES
@in_loop
async def test_detach_and_attach(tmp_path: Path, runtime: str) -> None:
    """The terminal, its process, and what was said survive the client's absence."""
    async with at_terminal(tmp_path, runtime, ["sh"]) as (shim, client):
        await shim.call("c", "start")
        client.type(b"sleep 0.3; echo while you were away\n")
        client.detach()
        client.attach()
        client.detach()
        await asyncio.sleep(0)
        client.attach()
        await client.expect(b"\r\nwhile you were away\r\n")
        client.type(b"echo and now\n")
        await client.expect(b"\r\nand now\r\n")
        client.type(b"exit\n")
        assert (await shim.call("c", "wait")).exit_status == 0


@RUNTIMES
@in_loop
async def test_the_end_of_input_hangs_up(tmp_path: Path, runtime: str) -> None:
    """CloseIO and the client's leaving are the line's end: SIGHUP, as Go's shim has it.

    What had been written before is read nevertheless.
    """
    script = "trap 'exit 9' HUP; echo here; while :; do sleep 0.05; done"
    async with at_terminal(tmp_path, runtime, ["sh", "-c", script]) as (shim, client):
        await shim.call("c", "start")
        await client.expect(b"here\r\n")
        await shim.call("c", "close_io", stdin=True)
        assert (await shim.call("c", "state")).exit_status == 0
        os.close(client._fds.pop())
        assert (await shim.call("c", "wait")).exit_status == 9


@RUNTIMES
@in_loop
async def test_a_create_that_fails(tmp_path: Path, runtime: str) -> None:
    """A command that is not there leaves no socket, no descriptor and no container."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", config=terminal_spec(["/no/such"]))
        client = Client(tmp_path, "c")
        client.attach()
        before = await fds(shim)
        for _ in range(2):
            with pytest.raises(DunnageError, match="OCI runtime create failed"):
                await shim.call("c", "create", **client.fields)
        assert before == await fds(shim)
        assert [] == consoles(shim)
        client.detach()
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")


@in_loop
async def test_a_runtime_that_sends_no_terminal(tmp_path: Path) -> None:
    """It is refused, and what it has made is undone."""
    runtime = tmp_path / "mute"
    runtime.write_text(
        "#!/bin/sh\n"
        'for a; do shift; case "$skip$a" in --console-socket) skip=y; continue;; y*)'
        ' skip=; continue;; esac; set -- "$@" "$a"; done\n'
        'exec runc "$@"\n'
    )
    runtime.chmod(0o755)
    async with Shim(tmp_path, runtime=str(runtime)) as shim:
        await shim.up("c", ["sleep", "1000"])
        with pytest.raises(DunnageError, match="failed to retrieve console master"):
            await shim.call("c", "create", terminal=True)
        assert [] == consoles(shim)
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
