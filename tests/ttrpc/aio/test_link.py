"""The link alone, with a connection that only counts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests import sockets
from tests.ttrpc.notes import run, wait_until

from dunnage.errors import (
    ConnectionBroken,
    ConnectionClosed,
    DunnageError,
    RemoteProtocolError,
)
from dunnage.ttrpc.aio.link import Link


class Pipe:
    """A connection for which each chunk that it reads is an event."""

    def __init__(self) -> None:
        self.output = b""
        self.is_cut_short = False

    @property
    def queued_bytes(self) -> int:
        """How much is to be written."""
        return len(self.output)

    def receive_data(self, data: bytes) -> list[bytes]:
        """Return the chunk."""
        return [data]

    def receive_eof(self) -> None:
        """Fail if so wished."""
        if self.is_cut_short:
            raise RemoteProtocolError("cut short")

    def data_to_send(self) -> bytes:
        """Return some of the output."""
        return self.output[:65536]

    def data_sent(self, count: int) -> None:
        """Forget it."""
        self.output = self.output[count:]


class Bench:
    """A link, its connection, the peer's socket, and all that was said."""

    def __init__(self, queue_limit_bytes: int | None = None) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(0)
        self.pipe = Pipe()
        self.events: list[bytes] = []
        self.ends: list[DunnageError] = []
        self.link = Link(
            ours,
            self.pipe,
            on_event=self.events.append,
            on_end=self.ends.append,
            queue_limit_bytes=queue_limit_bytes,
        )

    def send(self, data: bytes) -> None:
        """Write through the link."""
        self.pipe.output += data
        self.link.flush()

    async def receive(self, count: int) -> bytes:
        """Read at the peer's end."""
        data = b""
        while len(data) < count:
            data += await sockets.recv(self.peer, 65536)
        return data


@contextmanager
def bench(queue_limit_bytes: int | None = None) -> Iterator[Bench]:
    """Yield a bench; clear it up afterwards."""
    made = Bench(queue_limit_bytes)
    try:
        yield made
    finally:
        made.link.close()
        made.peer.close()


def test_bytes_go_both_ways() -> None:
    """What is queued is written at once, what comes is an event."""

    async def main() -> None:
        with bench() as it:
            it.send(b"out")
            assert it.peer.recv(10) == b"out"
            it.peer.send(b"in")
            await wait_until(lambda: it.events)
            assert it.events == [b"in"]

    run(main())


def test_what_the_socket_does_not_take_is_written_later() -> None:
    """Output of any length arrives whole, in order; `drained` tells when it is out."""
    data = bytes(range(256)) * (8 << 10)

    async def main() -> None:
        with bench() as it:
            assert it.link.drained().done()
            it.send(data)
            drained = it.link.drained()
            cancelled = it.link.drained()
            cancelled.cancel()
            assert not drained.done()
            assert data == await it.receive(len(data))
            await drained

    run(main())


def test_nothing_is_read_while_too_much_is_queued() -> None:
    """Beyond the limit input stays in the socket until output has gone."""

    async def main() -> None:
        with bench(queue_limit_bytes=1000) as it:
            it.send(bytes(1 << 20))
            it.peer.send(b"wait")
            for _turn in range(5):
                await asyncio.sleep(0)
            assert it.events == []
            await it.receive(1 << 20)
            await wait_until(lambda: it.events)
            assert it.events == [b"wait"]

    run(main())


def test_without_a_limit_reading_goes_on() -> None:
    """An end that has no limit reads, however much is queued."""

    async def main() -> None:
        with bench() as it:
            it.send(bytes(1 << 20))
            it.peer.send(b"in")
            await wait_until(lambda: it.events)
            assert it.pipe.queued_bytes

    run(main())


def test_the_peer_closes() -> None:
    """The end of input is told once, as the peer's doing."""

    async def main() -> None:
        with bench() as it:
            it.peer.close()
            await it.link.closed
            it.link.close()
            it.send(b"into the void")
            (error,) = it.ends
            assert isinstance(error, ConnectionBroken)
            assert it.link.error is error

    run(main())


def test_the_end_comes_too_early() -> None:
    """What the connection says of an early end is what ended the link."""

    async def main() -> None:
        with bench() as it:
            it.pipe.is_cut_short = True
            it.peer.close()
            await it.link.closed
            (error,) = it.ends
            assert isinstance(error, RemoteProtocolError)

    run(main())


def test_we_close() -> None:
    """Closing ends it at once, wakes who drains, and the peer sees the end."""

    async def main() -> None:
        with bench() as it:
            it.send(bytes(4 << 20))
            drained = it.link.drained()
            it.link.close()
            assert drained.done()
            assert it.link.closed.done()
            (error,) = it.ends
            assert isinstance(error, ConnectionClosed)
            assert it.link.drained().done()

    run(main())


def test_nothing_that_was_read_is_lost() -> None:
    """When writing fails, what the peer had sent before it left still comes."""

    async def main() -> None:
        with bench() as it:
            it.peer.send(b"last words")
            it.peer.close()
            it.send(b"too late")
            it.send(b"even later")
            assert not it.ends
            await it.link.closed
            assert it.events == [b"last words"]
            (error,) = it.ends
            assert isinstance(error, ConnectionBroken)
            assert isinstance(error.__cause__, BrokenPipeError)

    run(main())


def test_a_peer_that_no_longer_reads() -> None:
    """When writing fails and the peer stays, the link ends all the same."""

    async def main() -> None:
        with bench() as it:
            it.peer.shutdown(socket.SHUT_RD)
            it.send(b"x")
            await it.link.closed
            (error,) = it.ends
            assert isinstance(error.__cause__, BrokenPipeError)

    run(main())


def test_a_reset() -> None:
    """An error while reading breaks the connection, with the kernel's as its cause."""

    async def main() -> None:
        with bench() as it:
            it.send(b"never read")
            it.peer.close()  # with unread input: a reset
            await it.link.closed
            (error,) = it.ends
            assert isinstance(error, ConnectionBroken)
            assert isinstance(error.__cause__, ConnectionResetError)

    run(main())


def test_closing_in_the_middle_of_an_event() -> None:
    """Who closes the link on an event gets no further one."""

    async def main() -> None:
        ours, peer = socket.socketpair()
        events: list[bytes] = []

        class Twice(Pipe):
            def receive_data(self, data: bytes) -> list[bytes]:
                return [data, data]

        def close(event: bytes) -> None:
            events.append(event)
            link.close()

        link = Link(ours, Twice(), on_event=close, on_end=lambda _: None)
        with peer:
            peer.send(b"x")
            await link.closed
        assert events == [b"x"]

    run(main())


@pytest.mark.parametrize("when", ["before", "after"])
def test_closed_may_be_cancelled(when: str) -> None:
    """Somebody who cancels the wait for the end does not keep it from coming."""

    async def main() -> None:
        with bench() as it:
            if when == "before":
                it.link.closed.cancel()
            it.link.close()
            it.link.closed.cancel()
            assert len(it.ends) == 1

    run(main())
