"""The pump alone: what the kernel may say that a whole stream seldom hears."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
from typing import TYPE_CHECKING

import pytest
from tests.host.stdio.clients import open_fds, run, until

from dunnage.host.stdio.fd import Fd, pipe, unread_bytes
from dunnage.host.stdio.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Pair:
    """Two pipes and the pump between them."""

    def __init__(self) -> None:
        self.source, self.feed = pipe()
        self.taken, self.sink = pipe()
        self.ends = 0
        for fd in (self.source, self.feed, self.taken, self.sink):
            os.set_blocking(fd.number, False)
        self.pump = Pump(self.source.number, self.sink.number, self._ended)

    def _ended(self) -> None:
        self.ends += 1

    def close(self) -> None:
        """Close everything."""
        self.pump.stop()
        for fd in (self.source, self.feed, self.taken, self.sink):
            fd.close()

    async def carry(self, wanted: bytes) -> bytes:
        """Feed the bytes, close the feed, return what comes out."""
        self.pump.start()
        got, left = b"", wanted
        while not self.ends or unread_bytes(self.taken.number):
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self.feed.number, left) if left else 0 :]
            if not left:
                self.feed.close()
            with contextlib.suppress(BlockingIOError):
                got += os.read(self.taken.number, 5000)
            await asyncio.sleep(0)
        return got


@pytest.fixture
def no_leak() -> Iterator[None]:
    """Nothing is left open."""
    before = open_fds()
    yield
    assert before == open_fds()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
@pytest.mark.usefixtures("no_leak")
def test_copies_where_the_kernel_does_not_splice(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without splice(2) the same bytes pass through a buffer."""
    wanted = random.Random(9).randbytes(300_000)
    asked = []

    def refuse(*_: object, **__: object) -> int:
        asked.append(1)
        raise OSError(number, "no splice here")

    async def scenario() -> bytes:
        pair = Pair()
        got = await pair.carry(wanted)
        assert len(wanted) == pair.pump.moved_bytes
        assert pair.ends == 1
        pair.close()
        return got

    monkeypatch.setattr(os, "splice", refuse)
    assert wanted == run(scenario())
    assert len(asked) == 1


@pytest.mark.usefixtures("no_leak")
def test_much_is_spliced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pages do not pass through our memory."""
    wanted = random.Random(10).randbytes(1 << 20)
    read: Callable[[int, int], bytes] = os.read
    copied = 0

    async def scenario() -> bytes:
        nonlocal copied
        pair = Pair()

        def counted(fd: int, size: int) -> bytes:
            nonlocal copied
            data = read(fd, size)
            copied += len(data) if fd == pair.source.number else 0
            return data

        monkeypatch.setattr(os, "read", counted)
        got = await pair.carry(wanted)
        pair.close()
        return got

    assert wanted == run(scenario())
    assert copied < len(wanted) / 8


@pytest.mark.usefixtures("no_leak")
def test_stdio_survives_another_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """stdio-survives: bytes whose place another writer took are kept, in order."""
    write: Callable[[int, bytes], int] = os.write
    refused = 0

    async def scenario() -> bytes:
        pair = Pair()

        def crowded(fd: int, data: bytes) -> int:
            nonlocal refused
            if fd == pair.sink.number and refused < 3:
                refused += 1
                raise BlockingIOError(errno.EAGAIN, "taken")
            return write(fd, data)

        monkeypatch.setattr(os, "write", crowded)
        got = await pair.carry(b"one line\n")
        pair.close()
        return got

    assert run(scenario()) == b"one line\n"
    assert refused == 3


@pytest.mark.usefixtures("no_leak")
def test_ends_when_nobody_can_read_the_sink() -> None:
    """A sink without a reader is the end, said once."""

    async def scenario() -> None:
        pair = Pair()
        pair.pump.start()
        pair.taken.close()
        os.write(pair.feed.number, b"x")
        await until(lambda: pair.ends)
        os.write(pair.feed.number, b"y")
        await asyncio.sleep(0)
        assert pair.ends == 1
        pair.close()

    run(scenario())


@pytest.mark.usefixtures("no_leak")
def test_an_error_of_the_kernel_ends_one_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An unknown error is met once, not for ever."""

    def broken(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "broken")

    async def scenario() -> None:
        pair = Pair()
        pair.pump.start()
        os.write(pair.feed.number, b"x" * 8192)
        await until(lambda: pair.ends)
        assert pair.pump._watched is None
        pair.close()

    monkeypatch.setattr(os, "splice", broken)
    run(scenario())


@pytest.mark.usefixtures("no_leak")
def test_stopped_it_moves_nothing_and_says_nothing() -> None:
    """After stop neither bytes nor the end of the source are anybody's business."""

    async def scenario() -> None:
        pair = Pair()
        pair.pump.start()
        pair.pump.stop()
        pair.pump.stop()
        os.write(pair.feed.number, b"x")
        pair.feed.close()
        await asyncio.sleep(0.001)
        assert (pair.pump.moved_bytes, pair.ends) == (0, 0)
        pair.close()

    run(scenario())


@pytest.mark.usefixtures("no_leak")
def test_a_descriptor_is_closed_once() -> None:
    """A second close does not touch whoever has the number by then."""
    fd = Fd(os.open(os.devnull, os.O_RDONLY))
    number = fd.number
    fd.close()
    assert not fd.is_open
    stranger = os.open(os.devnull, os.O_RDONLY)
    assert number == stranger
    fd.close()
    assert os.fstat(stranger)
    os.close(stranger)
