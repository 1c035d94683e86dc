"""Streams over real sockets, both ends ours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import pytest
from tests.ttrpc.notes import (
    CHAT,
    COUNT,
    ECHO,
    JOIN,
    LAST,
    Note,
    data_frame,
    request_frame,
    run,
    wait_until,
)

from dunnage.errors import (
    ConnectionBroken,
    ConnectionClosed,
    DeadlineExceeded,
    EndOfStream,
    LocalProtocolError,
    NotFound,
    RemoteProtocolError,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from dunnage.testing.pair import connected_pair
from dunnage.ttrpc.aio import streams
from dunnage.ttrpc.aio.server import Context, Server
from dunnage.ttrpc.aio.streams import ClientStream, ServerStream
from dunnage.ttrpc.frames import MAX_DATA_BYTES, Flag
from dunnage.ttrpc.services import Method
from dunnage.ttrpc.streams import UNREAD_LIMIT_BYTES

Stream = ServerStream[Note, Note]
Handler = Callable[[Stream, Context], Awaitable[Any]]

LARGE = Note("x" * (UNREAD_LIMIT_BYTES // 4))


async def count(stream: Stream, _: Context) -> None:
    """Send the numbers below the one that is asked for."""
    for i in range(int((await stream.receive()).text)):
        await stream.send(Note(str(i)))


async def join(stream: Stream, _: Context) -> Note:
    """Answer with all words."""
    return Note(",".join([note.text async for note in stream]))


async def chat(stream: Stream, _: Context) -> None:
    """Answer each word at once."""
    async for note in stream:
        await stream.send(note)


async def idle(_: Stream, __: Context) -> None:
    """Receive nothing, send nothing."""
    await asyncio.get_running_loop().create_future()


def server_of(*handlers: tuple[Method[Note, Note], Handler]) -> Server:
    """Return a server with these streams, and an echo."""

    async def echo(request: Note, _: Context) -> Note:
        return request

    server = Server()
    server.register(ECHO, echo)
    for method, handler in handlers:
        server.register_stream(method, handler)
    return server


class TestKinds:
    """Who sends how many messages."""

    def test_replies(self) -> None:
        """A stream of replies arrives whole and in order."""

        async def main() -> None:
            async with connected_pair(server_of((COUNT, count))) as client:
                for until in (0, 1, 5000):
                    with client.stream(COUNT, Note(str(until))) as stream:
                        found = [note.text async for note in stream]
                    assert [*map(str, range(until))] == found

        run(main())

    def test_requests(self) -> None:
        """A stream of requests arrives whole and in order, and gets one reply."""

        async def main() -> None:
            async with connected_pair(server_of((JOIN, join))) as client:
                for words in ([], ["a", "", "b"], [*map(str, range(5000))]):
                    with client.stream(JOIN) as stream:
                        for word in words:
                            await stream.send(Note(word))
                        assert Note(",".join(words)) == await stream.reply()

        run(main())

    def test_both(self) -> None:
        """Each side may speak at any time, beside unary calls."""

        async def main() -> None:
            async with connected_pair(server_of((CHAT, chat))) as client:
                with client.stream(CHAT) as stream:
                    for word in ("a", "b"):
                        await stream.send(Note(word))
                        assert Note(word) == await stream.receive()
                        assert Note("x") == await client.call(ECHO, Note("x"))
                    stream.end()
                    with pytest.raises(EndOfStream):
                        await stream.receive()
                assert not client._connection.in_flight

        run(main())

    def test_the_wrong_call(self) -> None:
        """A method is called, and served, by what fits its kind."""

        async def nothing(*_: object) -> Note:
            return Note()

        async def main() -> None:
            server = server_of()
            with pytest.raises(LocalProtocolError):
                server.register(COUNT, nothing)
            with pytest.raises(LocalProtocolError):
                server.register_stream(ECHO, nothing)
            async with connected_pair(server) as client:
                with pytest.raises(LocalProtocolError):
                    await client.call(COUNT, Note())
                for method, request in ((ECHO, Note()), (COUNT, None), (CHAT, Note())):
                    with pytest.raises(LocalProtocolError):
                        client.stream(method, request)

        run(main())


class TestErrors:
    """How a stream fails."""

    def test_an_error_of_the_handler(self) -> None:
        """What came before an error is received before it."""

        async def fails(stream: Stream, _: Context) -> None:
            await stream.send(Note("a"))
            raise NotFound("gone")

        async def main() -> None:
            async with connected_pair(server_of((CHAT, fails))) as client:
                with client.stream(CHAT) as stream:
                    assert Note("a") == await stream.receive()
                    for _ in range(2):
                        with pytest.raises(NotFound, match=r"^gone$"):
                            await stream.receive()

        run(main())

    def test_no_reply(self) -> None:
        """A handler that owes one reply must return it; it cannot send it."""

        async def sends(stream: Stream, _: Context) -> None:
            with pytest.raises(LocalProtocolError):
                await stream.send(Note())

        async def main() -> None:
            async with connected_pair(server_of((JOIN, sends))) as client:
                with client.stream(JOIN) as stream, pytest.raises(Unknown):
                    await stream.reply()

        run(main())

    def test_a_message_that_cannot_be_read(self) -> None:
        """What the codec refuses is the sender's fault, at either end."""

        async def sends(stream: Stream, _: Context) -> None:
            await stream.send(Note("\udcff"))

        class Raw(Note):
            def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
                return b"\xff"

        async def garbage(stream: Stream, _: Context) -> None:
            await stream.send(Raw())

        async def main() -> None:
            server = server_of((CHAT, garbage), (JOIN, join))
            async with connected_pair(server) as client:
                with (
                    client.stream(CHAT) as stream,
                    pytest.raises(RemoteProtocolError, match="cannot be read"),
                ):
                    await stream.receive()
                with client.stream(JOIN) as stream:
                    await stream.send(Raw())
                    with pytest.raises(Exception, match="error unmarshalling payload"):
                        await stream.reply()

        run(main())

    def test_a_message_that_is_too_long(self) -> None:
        """A message above 4 MiB is refused here; the stream goes on."""

        async def main() -> None:
            async with connected_pair(server_of((JOIN, join))) as client:
                with client.stream(JOIN) as stream:
                    with pytest.raises(ResourceExhausted):
                        await stream.send(Note("x" * (MAX_DATA_BYTES + 1)))
                    await stream.send(Note("x"))
                    assert Note("x") == await stream.reply()

        run(main())

    def test_a_rule_that_the_peer_broke(self) -> None:
        """Data after the end fails the stream and ends its handler."""
        ended: list[BaseException] = []

        async def waits(stream: Stream, context: Context) -> None:
            try:
                await idle(stream, context)
            except asyncio.CancelledError as error:
                ended.append(error)
                raise

        async def main() -> None:
            server = server_of((CHAT, waits))
            ours, theirs = socket.socketpair()
            server.serve(theirs)
            with closing(ours):
                ours.sendall(
                    request_frame(1, CHAT.service, CHAT.name, b"", Flag.REMOTE_OPEN)
                    + data_frame(1, flags=LAST)
                )
                await wait_until(lambda: server._tasks)
                await asyncio.sleep(0)
                ours.sendall(data_frame(1, b"x"))
                await wait_until(lambda: ended)
                await wait_until(lambda: not server._tasks)
                assert server.connections == 1
            await server.close()

        run(main())


class TestEnds:
    """Giving up, time-outs, lost connections."""

    @pytest.mark.parametrize("close", [True, False])
    def test_the_connection_ends(self, close: bool) -> None:
        """Both ends hear of it; the handler is cancelled."""

        async def main() -> None:
            server = server_of((CHAT, idle))
            async with connected_pair(server) as client:
                with client.stream(CHAT) as stream:
                    waiting = asyncio.ensure_future(stream.receive())
                    await wait_until(lambda: server._tasks)
                    if close:
                        client.close()
                    else:
                        await server.close()
                    expected = ConnectionClosed if close else ConnectionBroken
                    with pytest.raises(expected):
                        await waiting
                    with pytest.raises(expected):
                        await stream.send(Note())
                await wait_until(lambda: not server._tasks)

        run(main())

    def test_a_timeout_at_both_ends(self) -> None:
        """Both ends stop waiting when the time of a stream is over."""
        seen: list[Exception] = []

        async def waits(stream: Stream, _: Context) -> None:
            try:
                await stream.receive()
            except DeadlineExceeded as error:
                seen.append(error)

        async def main() -> None:
            async with connected_pair(server_of((CHAT, waits))) as client:
                with client.stream(CHAT, timeout_s=0.02) as stream:
                    with pytest.raises(DeadlineExceeded):
                        await stream.receive()
                    with pytest.raises(DeadlineExceeded):
                        await stream.send(Note())
                await wait_until(lambda: seen)

        run(main())

    def test_leaving(self) -> None:
        """A stream that was left is forgotten, and cannot be used any more."""

        async def main() -> None:
            async with connected_pair(server_of((COUNT, count))) as client:
                with client.stream(COUNT, Note("5000")) as stream:
                    await stream.receive()
                assert (client._streams, client._connection.in_flight) == ({}, set())
                with pytest.raises(LocalProtocolError):
                    await stream.receive()
                assert Note("x") == await client.call(ECHO, Note("x"))

        run(main())

    def test_cancelling_loses_no_message(self) -> None:
        """A receive that is cancelled leaves the message to the next one."""

        async def main() -> None:
            async with connected_pair(server_of((CHAT, chat))) as client:
                with client.stream(CHAT) as stream:
                    waiting = asyncio.ensure_future(stream.receive())
                    await asyncio.sleep(0)
                    await stream.send(Note("a"))
                    waiting.cancel()
                    assert Note("a") == await stream.receive()

        run(main())


async def send_for_ever(stream: ClientStream[Note, Note]) -> None:
    """Send large messages until it fails."""
    while True:
        await stream.send(LARGE)


async def receive_all(stream: ClientStream[Note, Note], found: list[Note]) -> None:
    """Receive messages until it fails."""
    while True:
        found.append(await stream.receive())


class TestFlow:
    """What a slow or absent reader does to others."""

    def test_a_slow_reader_holds_its_peer_back(self) -> None:
        """What a handler reads late arrives whole, and is never all in memory.

        Invariant (bounded-stream): a stream holds its limit and one message more.
        """
        most = 0

        async def slow(stream: Stream, _: Context) -> Note:
            nonlocal most
            received = 0
            async for _note in stream:
                received += 1
                incoming = stream._core._streams[1]  # type: ignore[attr-defined]
                most = max(most, incoming._bytes)
                for _turn in range(10):
                    await asyncio.sleep(0)
            return Note(str(received))

        async def main() -> None:
            async with connected_pair(server_of((JOIN, slow))) as client:
                with client.stream(JOIN) as stream:
                    for _ in range(100):
                        await stream.send(LARGE)
                    assert Note("100") == await stream.reply()

        run(main())
        assert most <= UNREAD_LIMIT_BYTES + len(LARGE.text) + (64 << 10)

    def test_a_handler_that_reads_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its stream fails after a while, alone; unary calls are delayed till then.

        Invariant (no-stall): the connection is read again.
        """
        monkeypatch.setattr(streams, "PATIENCE_S", 0.05)

        async def main() -> None:
            server = server_of((JOIN, idle))
            async with connected_pair(server) as client:
                with client.stream(JOIN) as stream:
                    with pytest.raises(ResourceExhausted, match="stream buffer full"):
                        await send_for_ever(stream)
                    assert Note("x") == await client.call(ECHO, Note("x"))
                    with pytest.raises(ResourceExhausted):
                        await stream.reply()
                await wait_until(lambda: not server._tasks)

        run(main())

    def test_a_client_that_reads_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Likewise at the other end: what came is there, then the error."""
        monkeypatch.setattr(streams, "PATIENCE_S", 0.05)

        async def floods(stream: Stream, _: Context) -> None:
            for _i in range(100):
                await stream.send(LARGE)

        async def main() -> None:
            async with connected_pair(server_of((CHAT, floods))) as client:
                with client.stream(CHAT) as stream:
                    assert Note("x") == await client.call(ECHO, Note("x"))
                    found: list[Note] = []
                    with pytest.raises(ResourceExhausted):
                        await receive_all(stream, found)
                    assert 0 < len(found) < 100
                assert Note("x") == await client.call(ECHO, Note("x"))

        run(main())


class TestShutdown:
    """Ending without cutting anybody off."""

    def test_the_server_lets_calls_end(self) -> None:
        """What is in flight is answered, new requests are refused, then it ends."""
        go_on = asyncio.Event()

        async def later(stream: Stream, _: Context) -> None:
            await go_on.wait()
            await stream.send(Note("done"))

        async def main() -> None:
            server = server_of((CHAT, later))
            async with connected_pair(server) as client:
                with client.stream(CHAT) as stream:
                    await wait_until(lambda: server._tasks)
                    ending = asyncio.ensure_future(server.shutdown(timeout_s=5))
                    await asyncio.sleep(0)
                    with pytest.raises(Unavailable, match="shutting down"):
                        await client.call(ECHO, Note())
                    go_on.set()
                    assert Note("done") == await stream.receive()
                    with pytest.raises(EndOfStream):
                        await stream.receive()
                    await ending
                    await client.closed

        run(main())

    def test_the_server_has_a_limit(self) -> None:
        """A handler that does not end is cancelled when the time is over."""

        async def main() -> None:
            server = server_of((CHAT, idle))
            async with connected_pair(server) as client:
                with client.stream(CHAT) as stream:
                    await wait_until(lambda: server._tasks)
                    await server.shutdown(timeout_s=0.01)
                    with pytest.raises(Unavailable):
                        await stream.receive()

        run(main())

    def test_the_client_lets_calls_end(self) -> None:
        """What is in flight ends, new calls are refused, then it closes."""

        async def main() -> None:
            async with connected_pair(server_of((CHAT, chat))) as client:
                with client.stream(CHAT) as stream:
                    ending = asyncio.ensure_future(client.shutdown(timeout_s=5))
                    await asyncio.sleep(0)
                    with pytest.raises(ConnectionClosed):
                        await client.call(ECHO, Note())
                    await stream.send(Note("a"))
                    assert Note("a") == await stream.receive()
                    assert not ending.done()
                await ending
                assert client.closed.done()

        run(main())

    def test_a_client_with_nothing_to_do(self) -> None:
        """Without calls in flight a client closes at once; with them at its limit."""

        async def main() -> None:
            server = server_of((CHAT, idle))
            async with connected_pair(server) as client:
                await client.shutdown(timeout_s=5)
                assert client.closed.done()
            async with connected_pair(server_of((CHAT, idle))) as client:
                with client.stream(CHAT):
                    await client.shutdown(timeout_s=0.01)
                    assert client.closed.done()

        run(main())
