"""The terminal as a source and a sink: real masters, real fifos, real processes."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import termios
import tty
from typing import TYPE_CHECKING

import pytest
from tests.host.stdio.clients import open_fds, run, until

from dunnage.errors import DunnageError
from dunnage.host.stdio import Stdio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.host.stdio.clients import Processes

    MakeFifo = Callable[[str], Path]


class Terminal:
    """A terminal as a runtime makes it."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.name = os.ttyname(self.slave)

    def send_to(self, path: str, count: int = 1) -> None:
        """Send the master, as often as asked, and keep none of it."""
        send(path, [self.master] * count)
        os.close(self.master)

    def raw(self) -> None:
        """Have every byte pass as it is."""
        tty.setraw(self.slave)

    def close_slave(self) -> None:
        """Have the slave open nowhere, but where the code under test has it."""
        slave, self.slave = self.slave, -1
        if slave >= 0:
            os.close(slave)


def send(path: str, fds: list[int]) -> None:
    """Connect, send descriptors, and leave, as a runtime does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        connection.sendmsg([b"/dev/ptmx"], [rights] if fds else [])


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal whose slave goes with the test."""
    made = Terminal()
    yield made
    made.close_slave()


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Expect no descriptor and no socket to be left."""
    before = open_fds()
    yield
    assert [] == list(tmp_path.glob("console-*"))
    assert before == open_fds()


def began(
    terminal: Terminal, directory: Path, *, stdin: Path | str = "", stdout: Path | str
) -> Stdio:
    """Open the streams and have the terminal sent there, copying."""
    streams = Stdio.open(
        stdin=str(stdin), stdout=str(stdout), console_in=str(directory)
    )
    streams.close_child_ends()
    terminal.send_to(streams.console_path)
    streams.start()
    return streams


def read_now(fd: int) -> bytes:
    """Return what is there, of a descriptor that does not block."""
    with contextlib.suppress(BlockingIOError):
        return os.read(fd, 1 << 20)
    return b""


@contextlib.contextmanager
def reader(path: Path) -> Iterator[int]:
    """Read a fifo as a client does."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def writer(path: Path) -> Iterator[int]:
    """Write to a fifo that has a reader."""
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


async def read_exactly(fd: int, wanted: bytes) -> None:
    """Expect these bytes and nothing else so far."""
    got = b""

    def has_all() -> bool:
        nonlocal got
        got += read_now(fd)
        return len(got) >= len(wanted)

    await until(has_all)
    assert wanted == got


def test_a_burst_passes_without_a_loss(
    tmp_path: Path, fifo: MakeFifo, terminal: Terminal, processes: Processes
) -> None:
    """20 MB, written as fast as can be by a process that then ends, all arrive."""
    wanted = random.Random(3).randbytes(20_000_000)
    (tmp_path / "wanted").write_bytes(wanted)
    out = fifo("out")

    async def scenario() -> None:
        client = processes.reader(out, tmp_path / "got")
        terminal.raw()
        streams = began(terminal, tmp_path, stdout=out)
        process = subprocess.Popen(
            ["/bin/cat", str(tmp_path / "wanted")], stdout=terminal.slave
        )
        processes.started.append(process)
        terminal.close_slave()
        await until(lambda: process.poll() == 0, 25)
        streams.process_ended()
        assert await streams.drained(10)
        await until(lambda: client.poll() == 0)

    run(scenario())
    assert wanted == (tmp_path / "got").read_bytes()


def test_input_echo_and_control_characters(
    tmp_path: Path, fifo: MakeFifo, terminal: Terminal
) -> None:
    """What a client types is echoed, and arrives by lines."""
    stdin, out = fifo("in"), fifo("out")

    async def scenario() -> None:
        streams = began(terminal, tmp_path, stdin=stdin, stdout=out)
        with reader(out) as said, writer(stdin) as typing:
            os.write(typing, b"line\n\x04")
            await read_exactly(said, b"line\r\n")
            assert b"line\n" == os.read(terminal.slave, 100)
            assert b"" == os.read(terminal.slave, 100)
        streams.close()

    run(scenario())


def test_the_terminal_survives_its_readers(
    tmp_path: Path, fifo: MakeFifo, terminal: Terminal
) -> None:
    """A client may go and another come: nothing is lost, and input still works."""
    stdin, out = fifo("in"), fifo("out")

    async def scenario() -> None:
        terminal.raw()
        streams = began(terminal, tmp_path, stdin=stdin, stdout=out)
        with reader(out) as said, writer(stdin) as typing:
            os.write(typing, b"1")
            os.write(terminal.slave, b"one")
            await read_exactly(said, b"one")
        os.write(terminal.slave, b"while nobody looks")
        await asyncio.sleep(0)
        with reader(out) as said, writer(stdin) as typing:
            await read_exactly(said, b"while nobody looks")
            os.write(typing, b"2")
            await until(lambda: in_queue(terminal.slave) == 2)
            assert b"12" == os.read(terminal.slave, 100)
        streams.close()

    run(scenario())


def in_queue(fd: int) -> int:
    """Return how many bytes a terminal has for its reader."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])


def test_nobody_has_it_open_and_that_is_no_end(
    tmp_path: Path, fifo: MakeFifo, terminal: Terminal
) -> None:
    """A terminal that is opened late, or again, works; until then nothing spins."""
    stdin, out = fifo("in"), fifo("out")

    async def scenario() -> None:
        terminal.raw()
        terminal.close_slave()
        streams = began(terminal, tmp_path, stdin=stdin, stdout=out)
        with reader(out) as said, writer(stdin) as typing:
            os.write(typing, b"typed ahead")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            await asyncio.sleep(0.2)
            used_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
            assert used_s < 0.05
            terminal.slave = os.open(terminal.name, os.O_RDWR | os.O_NOCTTY)
            assert b"typed ahead" == os.read(terminal.slave, 100)
            os.write(terminal.slave, b"here")
            await read_exactly(said, b"here")
        streams.close()

    run(scenario())


_HANG_UP = """
import fcntl, os, sys, termios
os.setsid()
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.ioctl(fd, 0x5437)  # TIOCVHANGUP
"""


def test_a_hangup_by_the_process_is_no_end(
    tmp_path: Path, fifo: MakeFifo, terminal: Terminal
) -> None:
    """After vhangup, as systemd does it, the terminal is opened again and works."""
    stdin, out = fifo("in"), fifo("out")

    async def scenario() -> None:
        streams = began(terminal, tmp_path, stdin=stdin, stdout=out)
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-I", "-c", _HANG_UP, terminal.name], check=False
            )
            assert done.returncode in {0, -1}
            before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            await asyncio.sleep(0.12)
            used_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
            assert used_s < 0.05
            terminal.close_slave()
            terminal.slave = os.open(terminal.name, os.O_RDWR | os.O_NOCTTY)
            terminal.raw()
            with reader(out) as said, writer(stdin) as typing:
                os.write(terminal.slave, b"back")
                await read_exactly(said, b"back")
                os.write(typing, b"in")
                await until(lambda: in_queue(terminal.slave) == 2)
                os.read(terminal.slave, 2)
        streams.close()

    run(scenario())


def test_the_end_comes_though_somebody_keeps_it_open(
    tmp_path: Path, fifo: MakeFifo, terminal: Terminal, processes: Processes
) -> None:
    """When the process is gone, what was written is read, and then it hangs up."""
    out = fifo("out")

    async def scenario() -> None:
        processes.reader(out, tmp_path / "got")
        terminal.raw()
        streams = began(terminal, tmp_path, stdout=out)
        os.write(terminal.slave, b"x" * 10_000)
        streams.process_ended()
        assert await streams.drained(10)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.write(terminal.slave, b"too late")

    run(scenario())
    assert b"x" * 10_000 == (tmp_path / "got").read_bytes()


def test_the_end_waits_for_a_slow_reader(
    tmp_path: Path, fifo: MakeFifo, terminal: Terminal
) -> None:
    """What does not fit into the fifo is kept beyond the end of the process."""
    out = fifo("out")

    async def scenario() -> None:
        terminal.raw()
        os.set_blocking(terminal.slave, False)
        streams = began(terminal, tmp_path, stdout=out)
        wanted, refused = 0, 0
        while refused < 100:
            try:
                wanted += os.write(terminal.slave, b"y" * 4096)
                refused = 0
            except BlockingIOError:
                refused += 1
                await asyncio.sleep(0.001)
        terminal.close_slave()
        streams.process_ended()
        assert not await streams.drained(0.05, idle_s=0.02)
        with reader(out) as said:
            await read_exactly(said, b"y" * wanted)
        assert await streams.drained(10)

    run(scenario())


def test_without_a_reader_it_is_read_all_the_same(
    tmp_path: Path, terminal: Terminal
) -> None:
    """The output of a terminal that goes nowhere holds nobody up."""

    async def scenario() -> None:
        terminal.raw()
        os.set_blocking(terminal.slave, False)
        streams = began(terminal, tmp_path, stdout="")
        left = 200_000

        def all_is_written() -> bool:
            nonlocal left
            with contextlib.suppress(BlockingIOError):
                left -= os.write(terminal.slave, b"z" * min(left, 4096))
            return not left

        await until(all_is_written)
        streams.process_ended()
        assert await streams.drained(10)

    run(scenario())


def test_the_end_of_input_hangs_up(
    tmp_path: Path, fifo: MakeFifo, terminal: Terminal
) -> None:
    """CloseIO and the last client's leaving drop the line, after what was written."""
    stdin, out = fifo("in"), fifo("out")

    async def scenario() -> None:
        terminal.raw()
        streams = began(terminal, tmp_path, stdin=stdin, stdout=out)
        with reader(out) as said:
            with writer(stdin):
                os.write(terminal.slave, b"last words")
                streams.close_stdin()
                await asyncio.sleep(0)
            await read_exactly(said, b"last words")
            assert await streams.drained(10)
        assert b"" == os.read(terminal.slave, 1)

    run(scenario())


def test_resize(tmp_path: Path, terminal: Terminal) -> None:
    """The size is set, in columns and rows; after the end it is of no matter."""

    async def scenario() -> None:
        streams = began(terminal, tmp_path, stdout="")
        streams.resize(132, 43)
        assert os.terminal_size((132, 43)) == os.get_terminal_size(terminal.slave)
        streams.close()
        streams.resize(80, 24)
        without = Stdio.open()
        without.resize(80, 24)
        without.close()

    run(scenario())


def test_a_runtime_that_sends_no_terminal(tmp_path: Path) -> None:
    """Nothing, no descriptor, two, or no terminal: one error, and nothing is left."""

    async def scenario() -> None:
        master, slave = os.openpty()
        null = os.open(os.devnull, os.O_RDWR)
        offers: list[list[int] | None] = [None, [], [master, master], [null], [slave]]
        for fds in offers:
            streams = Stdio.open(console_in=str(tmp_path))
            if fds is not None:
                send(streams.console_path, fds)
            with pytest.raises(DunnageError, match=r"^failed to retrieve console"):
                streams.start()
            streams.close()
        for fd in (master, slave, null):
            os.close(fd)

    run(scenario())


def test_the_socket_is_private_and_its_path_short(tmp_path: Path) -> None:
    """Whatever the length of the bundle's path, the socket can be reached, by us."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()

    async def scenario() -> None:
        streams = Stdio.open(console_in=str(deep))
        (directory,) = deep.iterdir()
        assert directory.stat().st_mode & 0o777 == 0o700
        assert len(streams.console_path) < 108
        send(streams.console_path, [])
        streams.close()
        assert [] == list(deep.iterdir())

    run(scenario())


def test_a_failure_to_open_leaves_nothing(tmp_path: Path, fifo: MakeFifo) -> None:
    """A fifo that is not there, or no directory for the socket, is an error."""
    out = fifo("out")

    async def scenario() -> None:
        with pytest.raises(DunnageError, match="no such file"):
            Stdio.open(stdin="/no/such", stdout=str(out), console_in=str(tmp_path))
        with pytest.raises(DunnageError, match="no such file"):
            Stdio.open(stdout="/no/such", console_in=str(tmp_path))
        with pytest.raises(DunnageError, match="no such file"):
            Stdio.open(stdout=str(out), console_in=str(tmp_path / "nope"))

    run(scenario())
