"""The client, against the server and against raw sockets."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import sockets
from tests.ttrpc.notes import (
    ECHO,
    Note,
    error_frame,
    response_frame,
    run,
)

from dunnage.errors import (
    AlreadyExists,
    ConnectionBroken,
    ConnectionClosed,
    DeadlineExceeded,
    DunnageError,
    InvalidArgument,
    RemoteProtocolError,
    ResourceExhausted,
)
from dunnage.testing.pair import connected_pair
from dunnage.ttrpc.aio.client import Client
from dunnage.ttrpc.aio.server import Context, Server
from dunnage.ttrpc.connection import ServerConnection
from dunnage.ttrpc.events import RequestReceived
from dunnage.ttrpc.frames import MAX_DATA_BYTES


class RawServer:
    """The other end of a client: reads requests, writes any bytes."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self.sock = sock
        self.connection = ServerConnection()

    async def requests(self, count: int) -> list[RequestReceived]:
        """Wait for so many requests."""
        found: list[RequestReceived] = []
        while len(found) < count:
            data = await sockets.recv(self.sock, 65536)
            events = self.connection.receive_data(data)
            found += [it for it in events if isinstance(it, RequestReceived)]
        return found


@contextmanager
def raw_pair() -> Iterator[tuple[Client, RawServer]]:
    """Yield a client and its raw server; close both afterwards."""
    ours, theirs = socket.socketpair()
    client = Client(ours)
    try:
        yield client, RawServer(theirs)
    finally:
        client.close()
        theirs.close()


def start(client: Client, text: str = "") -> asyncio.Task[Note]:
    """Begin a call."""
    return asyncio.ensure_future(client.call(ECHO, Note(text)))


class TestCall:
    """One call, and what becomes of it."""

    def test_what_is_sent(self) -> None:
        """A call sends names, payload, time-out and lower-case metadata."""

        async def main() -> list[RequestReceived]:
            with raw_pair() as (client, server):
                work = client.call(
                    ECHO, Note("x"), timeout_s=1.5, metadata={"Some-Key": "Value"}
                )
                call = asyncio.ensure_future(work)
                requests = await server.requests(1)
                call.cancel()
                return requests

        metadata = (("some-key", "Value"),)
        assert [
            RequestReceived(1, "notes.Notes", "Echo", b"x", 1_500_000_000, metadata)
        ] == run(main())

    @pytest.mark.parametrize(
        ("timeout_s", "timeout_ns"),
        [(1e-12, 1), (math.inf, 2**63 - 1), (1e300, 2**63 - 1)],
    )
    def test_odd_timeouts(self, timeout_s: float, timeout_ns: int) -> None:
        """A time-out is never rounded down to none, nor too long for the wire."""

        async def main() -> int:
            with raw_pair() as (client, server):
                work = client.call(ECHO, Note(), timeout_s=timeout_s)
                call = asyncio.ensure_future(work)
                (request,) = await server.requests(1)
                call.cancel()
                await asyncio.wait([call])
                if not call.cancelled():
                    assert isinstance(call.exception(), DeadlineExceeded)
                return request.timeout_ns

        assert timeout_ns == run(main())

    def test_replies_in_any_order(self) -> None:
        """Each call gets its own reply, whatever the order."""

        async def main() -> None:
            with raw_pair() as (client, server):
                calls = [start(client) for _ in range(3)]
                assert [1, 3, 5] == [r.stream_id for r in await server.requests(3)]
                for stream_id in (3, 5, 1):
                    server.sock.send(response_frame(stream_id, b"%d" % stream_id))
                replies = await asyncio.gather(*calls)
                assert [Note("1"), Note("3"), Note("5")] == replies

        run(main())

    def test_an_error_of_the_peer(self) -> None:
        """An error status is raised as its class, without the suffix."""

        async def main() -> None:
            with raw_pair() as (client, server):
                call = start(client)
                await server.requests(1)
                server.sock.send(error_frame(1, 6, "task x: already exists"))
                with pytest.raises(AlreadyExists, match=r"^task x$"):
                    await call

        run(main())

    def test_a_reply_that_cannot_be_read(self) -> None:
        """A reply that the method's codec refuses is the peer's fault."""

        async def main() -> None:
            with raw_pair() as (client, server):
                call = start(client)
                await server.requests(1)
                server.sock.send(response_frame(1, b"\xff"))
                with pytest.raises(RemoteProtocolError, match="cannot be read"):
                    await call

        run(main())

    def test_a_request_that_is_too_long(self) -> None:
        """A request above 4 MiB fails here; the connection stays good."""

        async def main() -> None:
            with raw_pair() as (client, server):
                with pytest.raises(ResourceExhausted):
                    await client.call(ECHO, Note("x" * MAX_DATA_BYTES))
                call = start(client)
                await server.requests(1)
                server.sock.send(response_frame(1))
                assert await call == Note()

        run(main())

    def test_the_longest_request(self) -> None:
        """A request of exactly 4 MiB gets through."""
        overhead = len("notes.Notes") + len("Echo") + 2 * 2 + 1 + 4
        length = MAX_DATA_BYTES - overhead

        async def main() -> None:
            with raw_pair() as (client, server):
                with pytest.raises(ResourceExhausted):
                    await client.call(ECHO, Note("x" * (length + 1)))
                call = start(client, "x" * length)
                (request,) = await server.requests(1)
                assert length == len(request.payload)
                server.sock.send(response_frame(1))
                assert await call == Note()

        run(main())


class TestGivingUp:
    """Cancelling and time-outs."""

    def test_a_timeout(self) -> None:
        """A call whose time is out fails; its late reply is dropped."""

        async def main() -> None:
            with raw_pair() as (client, server):
                with pytest.raises(DeadlineExceeded, match="no reply within"):
                    await client.call(ECHO, Note(), timeout_s=0.01)
                call = start(client)
                await server.requests(2)
                server.sock.send(response_frame(1, b"late") + response_frame(3, b"x"))
                assert await call == Note("x")
                assert not client._replies

        run(main())

    def test_no_time_at_all(self) -> None:
        """A call that has no time left fails without being sent."""

        async def main() -> None:
            with raw_pair() as (client, _):
                with pytest.raises(DeadlineExceeded):
                    await client.call(ECHO, Note(), timeout_s=0)
                assert client._connection.in_flight == set()

        run(main())

    def test_cancelling(self) -> None:
        """A cancelled call is forgotten; its late reply is dropped."""

        async def main() -> None:
            with raw_pair() as (client, server):
                given_up, call = start(client), start(client)
                await server.requests(2)
                given_up.cancel()
                # The reply may be there before the call has noticed.
                server.sock.send(response_frame(1, b"late") + response_frame(3, b"x"))
                assert await call == Note("x")
                assert given_up.cancelled()
                assert (client._replies, client._connection.in_flight) == ({}, set())

        run(main())


class TestEnds:
    """How a connection ends, and what the calls make of it."""

    def test_the_peer_goes(self) -> None:
        """Every call in flight fails, later calls at once, and `closed` is done."""

        async def main() -> None:
            with raw_pair() as (client, server):
                calls = [start(client), start(client)]
                await server.requests(2)
                server.sock.close()
                for call in calls:
                    with pytest.raises(ConnectionBroken, match="peer closed"):
                        await call
                await client.closed
                with pytest.raises(ConnectionBroken):
                    await client.call(ECHO, Note())

        run(main())

    def test_the_peer_goes_in_the_middle_of_a_frame(self) -> None:
        """A cut reply breaks the connection, and the cause tells why."""

        async def main() -> None:
            with raw_pair() as (client, server):
                call = start(client)
                await server.requests(1)
                server.sock.send(response_frame(1, b"whole")[:-1])
                server.sock.close()
                with pytest.raises(ConnectionBroken) as caught:
                    await call
                assert isinstance(caught.value.__cause__, RemoteProtocolError)

        run(main())

    def test_we_go(self) -> None:
        """After close, calls in flight and later ones say that we did it."""

        async def main() -> None:
            with raw_pair() as (client, server):
                call = start(client)
                await server.requests(1)
                client.close()
                client.close()
                assert client.closed.done()
                with pytest.raises(ConnectionClosed):
                    await call
                with pytest.raises(ConnectionClosed):
                    await client.call(ECHO, Note())

        run(main())

    def test_replies_before_the_end_count(self) -> None:
        """A reply that the peer wrote before it left is not lost to a failing write."""

        async def main() -> None:
            with raw_pair() as (client, server):
                answered = start(client)
                await server.requests(1)
                server.sock.send(response_frame(1, b"done"))
                server.sock.close()
                lost = start(client)  # is written, and fails, before anything is read
                assert await answered == Note("done")
                with pytest.raises(ConnectionBroken):
                    await lost

        run(main())

    def test_closed_is_done_once(self) -> None:
        """The hook on the end runs once, whoever ended the connection how often."""
        ends: list[object] = []

        async def main() -> None:
            with raw_pair() as (client, server):
                client.closed.add_done_callback(ends.append)
                server.sock.close()
                await client.closed
                client.close()

        run(main())
        assert len(ends) == 1


class TestConnect:
    """Addresses."""

    @pytest.mark.parametrize("form", ["unix://{}", "{}"])
    def test_a_path(self, tmp_path: Path, form: str) -> None:
        """A path is found with and without its scheme."""
        path = f"{tmp_path}/s"

        async def main() -> None:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                client = await Client.connect(form.format(path))
                client.close()

        run(main())

    def test_an_abstract_name(self) -> None:
        """Without scheme and slash it is a name in the abstract namespace."""
        name = f"dunnage-test-{os.getpid()}"

        async def main() -> None:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"\0{name}")
                listener.listen()
                client = await Client.connect(name)
                client.close()

        run(main())

    @pytest.mark.parametrize(
        ("make", "cause"),
        [(False, FileNotFoundError), (True, ConnectionRefusedError)],
    )
    def test_nobody_there(
        self, tmp_path: Path, make: bool, cause: type[OSError]
    ) -> None:
        """Who cannot be reached is named, and the cause is the kernel's."""
        path = f"{tmp_path}/s"
        if make:
            with socket.socket(socket.AF_UNIX) as left_over:
                left_over.bind(path)
        with pytest.raises(ConnectionBroken, match=path) as caught:
            run(Client.connect(path))
        assert isinstance(caught.value.__cause__, cause)

    @pytest.mark.parametrize("address", ["", "tcp://host:1", "unix://relative"])
    def test_not_an_address(self, address: str) -> None:
        """What names no unix socket is refused."""
        with pytest.raises(InvalidArgument):
            run(Client.connect(address))

    def test_a_full_backlog(self, tmp_path: Path) -> None:
        """Connecting waits for room in the backlog, so long as it may."""
        path = f"{tmp_path}/s"

        async def main() -> None:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(0)
                first = await Client.connect(path)
                with pytest.raises(ConnectionBroken) as caught:
                    await Client.connect(path, timeout_s=0.02)
                assert isinstance(caught.value.__cause__, BlockingIOError)
                waiting = asyncio.ensure_future(Client.connect(path))
                await asyncio.sleep(0)
                assert not waiting.done()
                listener.accept()[0].close()
                (await waiting).close()
                cancelled = asyncio.ensure_future(Client.connect(path))
                await asyncio.sleep(0)
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
                first.close()

        run(main())


@contextmanager
def no_collector() -> Iterator[None]:
    """Switch the cyclic collector off."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class TestLeaks:
    """Nothing survives, without the collector's help."""

    def test_no_descriptor(self) -> None:
        """A pair that was closed has given back its descriptors."""

        async def main() -> None:
            before = os.listdir("/proc/self/fd")
            async with connected_pair(echo_server()) as client:
                await client.call(ECHO, Note())
            assert before == os.listdir("/proc/self/fd")

        run(main())

    @pytest.mark.parametrize("text", ["fine", "fails"])
    def test_no_message(self, text: str) -> None:
        """Request and reply, and an error, are gone once the call has ended."""

        async def main() -> None:
            async with connected_pair(echo_server()) as client:
                with no_collector():
                    watched = await call_and_forget(client, text)
                    await asyncio.sleep(0)
                    assert [None] * len(watched) == [ref() for ref in watched]

        run(main())

    def test_no_client_and_no_server(self) -> None:
        """Both ends are gone once they are closed and dropped."""

        async def main() -> None:
            with no_collector():
                server = echo_server()
                async with connected_pair(server) as client:
                    await client.call(ECHO, Note())
                    sessions = list(server._sessions)
                    ends = [client, client._link, *sessions, sessions[0].link]
                    watched: list[weakref.ref[object]] = [*map(weakref.ref, ends)]
                    del sessions, ends
                del server, client
                await asyncio.sleep(0)
                assert [None] * 4 == [ref() for ref in watched]

        run(main())


def echo_server() -> Server:
    """Return a server that echoes, or fails if it is asked to."""

    async def answer(request: Note, _: Context) -> Note:
        if request.text == "fails":
            raise AlreadyExists("failed")
        return Note(request.text)

    server = Server()
    server.register(ECHO, answer)
    return server


async def call_and_forget(client: Client, text: str) -> list[weakref.ref[object]]:
    """Make one call; return weak references to what it brought about."""
    request = Note(text)
    watched: list[weakref.ref[object]] = [weakref.ref(request)]
    try:
        reply = await client.call(ECHO, request, timeout_s=5)
        watched.append(weakref.ref(reply))
    except DunnageError as error:
        watched.append(weakref.ref(error))
    return watched
