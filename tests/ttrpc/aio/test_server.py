"""The server, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests import sockets
from tests.ttrpc.notes import ECHO, HOLD, Note, request_frame, run, wait_until

from dunnage.errors import (
    Cancelled,
    DunnageError,
    LocalProtocolError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from dunnage.testing.pair import connect_to, connected_pair
from dunnage.ttrpc.aio.client import Client
from dunnage.ttrpc.aio.server import Context, Peer, Server
from dunnage.ttrpc.events import RequestReceived, encode_request
from dunnage.ttrpc.frames import (
    MAX_DATA_BYTES,
    Frame,
    FrameBuffer,
    FrameType,
    encode_frame,
)
from dunnage.ttrpc.services import Method
from dunnage.ttrpc.wire_pb2 import Response


async def echo(request: Note, _: Context) -> Note:
    """Answer with what was asked."""
    return request


class Holder:
    """A handler that never answers, and says what happens to it."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0

    async def __call__(self, request: Note, _: Context) -> Note:
        """Wait for ever."""
        self.started += 1
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request


def server_of(
    handler: Callable[[Note, Context], Awaitable[Any]] = echo,
    method: Method[Note, Note] = ECHO,
    *,
    check_peer: bool = True,
    max_connections: int | None = None,
) -> Server:
    """Return a server with one handler."""
    server = Server(check_peer=check_peer, max_connections=max_connections)
    server.register(method, handler)
    return server


async def outcome(client: Client, text: str = "x") -> DunnageError:
    """Return the error that a call of ECHO ends with."""
    with pytest.raises(DunnageError) as caught:
        await client.call(ECHO, Note(text))
    return caught.value


@contextmanager
def raw_peer(server: Server) -> Iterator[socket.socket]:
    """Yield a blocking socket to the server."""
    ours, theirs = socket.socketpair()
    server.serve(theirs)
    with closing(ours):
        yield ours


async def read_statuses(sock: socket.socket, count: int) -> list[tuple[int, int, str]]:
    """Read so many responses as (stream id, code, text)."""
    sock.setblocking(False)
    buffer = FrameBuffer()
    found: list[tuple[int, int, str]] = []
    while len(found) < count:
        buffer.feed(await sockets.recv(sock, 65536))
        for frame in buffer:
            assert isinstance(frame, Frame)
            status = Response.FromString(frame.data).status
            found.append((frame.stream_id, status.code, status.message))
    return found


class CountingSocket(socket.socket):
    """A socket that counts its writes."""

    count = 0

    def send(self, *given: Any) -> int:
        """Count and send."""
        self.count += 1
        return super().send(*given)


@asynccontextmanager
async def closing_server(server: Server) -> Any:
    """Close the server afterwards."""
    try:
        yield server
    finally:
        await server.close()


class TestHandlers:
    """What becomes of a handler's result."""

    def test_a_reply(self) -> None:
        """What the handler returns is what the caller gets, an empty reply too."""

        async def main() -> None:
            async with connected_pair(server_of()) as client:
                assert Note("hello") == await client.call(ECHO, Note("hello"))
                assert Note("") == await client.call(ECHO, Note(""))

        run(main())

    @pytest.mark.parametrize(
        ("raised", "expected"),
        [
            (NotFound("container not created"), NotFound("container not created")),
            (Unknown("odd"), Unknown("odd")),
            (DunnageError("odd"), Unknown("odd")),
            (asyncio.CancelledError(), Cancelled("context canceled")),
        ],
    )
    def test_an_error_of_ours(
        self, raised: BaseException, expected: DunnageError
    ) -> None:
        """A DunnageError arrives as its class; an inner cancellation as code 1."""

        async def fail(_: Note, __: Context) -> Note:
            raise raised

        async def main() -> DunnageError:
            async with connected_pair(server_of(fail)) as client:
                return await outcome(client)

        error = run(main())
        assert (type(expected), expected.message) == (type(error), error.message)

    def test_an_error_of_any_kind(self, caplog: pytest.LogCaptureFixture) -> None:
        """Any other exception is logged with its traceback, and named to the caller."""

        async def fail(_: Note, __: Context) -> Note:
            raise RuntimeError("oops")

        async def main() -> DunnageError:
            async with connected_pair(server_of(fail)) as client:
                return await outcome(client)

        error = run(main())
        assert (type(error), error.message) == (Unknown, "RuntimeError: oops")
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("dunnage.ttrpc", logging.ERROR)
        assert record.exc_info is not None

    def test_no_reply_at_all(self) -> None:
        """A handler that returns nothing is answered as the Go server answers it."""

        async def forget(_: Note, __: Context) -> Any:
            return None

        async def main() -> DunnageError:
            async with connected_pair(server_of(forget)) as client:
                return await outcome(client)

        assert run(main()).message == "ttrpc: marshal called with nil"

    def test_replies_in_the_order_of_completion(self) -> None:
        """A slow call holds up neither the reader nor other replies."""
        holder = Holder()

        async def main() -> None:
            server = server_of()
            server.register(HOLD, holder)
            async with connected_pair(server) as client:
                slow = asyncio.ensure_future(client.call(HOLD, Note()))
                await wait_until(lambda: holder.started)
                assert Note("fast") == await client.call(ECHO, Note("fast"))
                assert not slow.done()
                slow.cancel()

        run(main())

    def test_the_context(self) -> None:
        """A handler sees metadata, deadline and peer of its call."""
        seen: list[Context] = []

        async def look(request: Note, context: Context) -> Note:
            seen.append(context)
            return request

        async def main() -> float:
            async with connected_pair(server_of(look)) as client:
                await client.call(ECHO, Note())
                await client.call(ECHO, Note(), timeout_s=50, metadata={"Key": "v"})
                return asyncio.get_running_loop().time()

        now = run(main())
        plain, full = seen
        own = Peer(os.getpid(), os.geteuid(), os.getegid())
        assert Context({}, None, own) == plain
        assert full.metadata == {"key": "v"}
        assert full.deadline is not None
        assert now + 30 < full.deadline <= now + 50

    def test_repeated_metadata_and_a_dead_deadline(self) -> None:
        """The first value of a key counts; a time-out below zero has passed already."""
        seen: list[Context] = []

        async def look(request: Note, context: Context) -> Note:
            seen.append(context)
            return request

        async def main() -> float:
            request = RequestReceived(
                1, ECHO.service, ECHO.name, b"", -1, (("K", "1"), ("k", "2"))
            )
            frame = Frame(1, FrameType.REQUEST, 0, encode_request(request))
            async with closing_server(server_of(look)) as server:
                with raw_peer(server) as sock:
                    sock.sendall(encode_frame(frame))
                    assert [(1, 0, "")] == await read_statuses(sock, 1)
            return asyncio.get_running_loop().time()

        now = run(main())
        (context,) = seen
        assert context.metadata == {"k": "1"}
        assert context.deadline is not None
        assert context.deadline < now

    def test_a_synchronous_handler(self, caplog: pytest.LogCaptureFixture) -> None:
        """Its reply, its error, its bug and a payload that is none are answered."""

        def answer(request: Note, context: Context) -> Note:
            if request.text == "none":
                raise NotFound(context.metadata["k"])
            return Note(str(1 / int(request.text)))

        async def main() -> None:
            server = Server()
            server.register_sync(ECHO, answer)
            async with connected_pair(server) as client:
                assert Note("0.5") == await client.call(ECHO, Note("2"))
                with pytest.raises(NotFound, match=r"^v$"):
                    await client.call(ECHO, Note("none"), metadata={"k": "v"})
                assert "ZeroDivisionError: division by zero" == str(
                    await outcome(client, "0")
                )
                with raw_peer(server) as sock:
                    frame = request_frame(1, ECHO.service, ECHO.name, b"\xff")
                    sock.sendall(frame)
                    ((_, code, text),) = await read_statuses(sock, 1)
                    assert (13, "ttrpc: error unmarshalling payload") == (
                        code,
                        text[:34],
                    )
                assert Note("0.5") == await client.call(ECHO, Note("2"))

        run(main())
        assert "the handler of notes.Notes/Echo failed" in caplog.text

    def test_synchronous_replies_are_written_together(self) -> None:
        """What came in one read and is answered at once goes out in one write."""

        async def main() -> None:
            server = Server()
            server.register_sync(ECHO, lambda request, _: request)
            ours, theirs = socket.socketpair()
            counting = CountingSocket(fileno=theirs.detach())
            with closing(ours):
                async with closing_server(server):
                    server.serve(counting)
                    frames = [
                        request_frame(id_, ECHO.service, ECHO.name, b"x")
                        for id_ in (1, 3, 5)
                    ]
                    ours.sendall(b"".join(frames))
                    assert [1, 3, 5] == [
                        id_ for id_, *_ in await read_statuses(ours, 3)
                    ]
                    assert 1 == counting.count

        run(main())

    def test_one_handler_for_one_method(self) -> None:
        """A method cannot be registered twice."""
        server = server_of()
        with pytest.raises(LocalProtocolError):
            server.register(ECHO, echo)


class TestBadInput:
    """What the server refuses because of what is registered with it."""

    @pytest.mark.parametrize(
        ("frame", "code", "text"),
        [
            (encode_frame(Frame(1, FrameType.REQUEST)), 12, "service "),
            (request_frame(1, "no.Such"), 12, "service no.Such"),
            (request_frame(1, ECHO.service, "Nope"), 12, "method Nope"),
            (
                request_frame(1, ECHO.service, ECHO.name, b"\xff"),
                13,
                "ttrpc: error unmarshalling payload: ",
            ),
        ],
    )
    def test_is_answered(self, frame: bytes, code: int, text: str) -> None:
        """Unknown names and unreadable payloads are answered; the connection stays."""

        async def main() -> None:
            async with closing_server(server_of()) as server:
                with raw_peer(server) as sock:
                    sock.sendall(frame)
                    ((stream_id, got, said),) = await read_statuses(sock, 1)
                    assert (stream_id, got) == (1, code)
                    assert said.startswith(text)
                    sock.sendall(request_frame(3, ECHO.service, ECHO.name))
                    assert [(3, 0, "")] == await read_statuses(sock, 1)

        run(main())

    def test_a_frame_that_is_too_long(self) -> None:
        """A request above 4 MiB is code 8 on its id; the connection stays."""
        length = MAX_DATA_BYTES + 1
        data = length.to_bytes(4, "big") + b"\0\0\0\1\1\0" + bytes(length)

        async def main() -> None:
            async with closing_server(server_of()) as server:
                with raw_peer(server) as sock:
                    sock.setblocking(False)
                    await sockets.send_all(sock, data)
                    ((stream_id, code, _),) = await read_statuses(sock, 1)
                    assert (stream_id, code) == (1, 8)
                    sock.sendall(request_frame(3, ECHO.service, ECHO.name))
                    assert [(3, 0, "")] == await read_statuses(sock, 1)

        run(main())

    def test_half_a_frame(self, caplog: pytest.LogCaptureFixture) -> None:
        """A client that leaves in the middle of a frame is gone; others stay."""

        async def main() -> None:
            server = server_of()
            async with connected_pair(server) as client:
                with raw_peer(server) as sock:
                    sock.sendall(request_frame(1)[:-1])
                    assert Note("x") == await client.call(ECHO, Note("x"))
                    assert server.connections == 2
                await wait_until(lambda: server.connections == 1)
                assert Note("x") == await client.call(ECHO, Note("x"))

        run(main())
        assert "in the middle of a frame" in caplog.text

    def test_a_reply_that_is_too_long(self) -> None:
        """A reply above 4 MiB is code 8 for the caller; the connection stays."""

        async def much(_: Note, __: Context) -> Note:
            return Note("x" * MAX_DATA_BYTES)

        async def main() -> None:
            server = server_of(much)
            async with connected_pair(server) as client:
                assert isinstance(await outcome(client), ResourceExhausted)
                assert isinstance(await outcome(client), ResourceExhausted)

        run(main())


class TestEnds:
    """How connections and the server end."""

    def test_handlers_end_with_their_connection(self) -> None:
        """When a connection ends, its handlers are cancelled, and no others."""
        holder = Holder()

        async def main() -> None:
            server = server_of(holder)
            async with connected_pair(server) as client:
                other = connect_to(server)
                calls = [
                    asyncio.ensure_future(end.call(ECHO, Note()))
                    for end in (client, other)
                ]
                await wait_until(lambda: holder.started == 2)
                other.close()
                await wait_until(lambda: server.connections == 1)
                await wait_until(lambda: holder.cancelled)
                assert not calls[0].done()
                client.close()
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(result, Unavailable) for result in results)

        run(main())
        assert holder.cancelled == 2

    def test_close_waits_for_handlers(self) -> None:
        """After close no handler runs, not even in its cleaning up."""
        steps: list[str] = []

        async def tidy(request: Note, _: Context) -> Note:
            steps.append("started")
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                for _turn in range(5):
                    await asyncio.sleep(0)
                steps.append("tidied")
            return request

        async def main() -> None:
            server = server_of(tidy)
            client = connect_to(server)
            call = asyncio.ensure_future(client.call(ECHO, Note()))
            await wait_until(lambda: steps)
            await server.close()
            assert steps == ["started", "tidied"]
            with pytest.raises(Unavailable):
                await call
            assert server.connections == 0

        run(main())

    def test_a_handler_may_close_its_server(self) -> None:
        """Close does not wait for the handler that called it."""

        async def main() -> None:
            server = Server()
            done = asyncio.Event()

            async def leave(request: Note, _: Context) -> Note:
                await server.close()
                done.set()
                return request

            server.register(ECHO, leave)
            client = connect_to(server)
            with pytest.raises(Unavailable):
                await client.call(ECHO, Note())
            await done.wait()
            await server.close()

        run(main())

    def test_the_last_reply_is_written_before_the_end(self) -> None:
        """Who is woken by a handler, drains and closes, loses none of its reply."""
        reply = Note("x" * (3 << 20))

        async def main() -> None:
            server = Server()
            asked = asyncio.Event()

            async def shutdown(_: Note, __: Context) -> Note:
                asked.set()
                return reply

            server.register(ECHO, shutdown)
            client = connect_to(server)
            call = asyncio.ensure_future(client.call(ECHO, Note()))
            await asked.wait()
            await server.drain(timeout_s=5)
            await server.close()
            assert reply == await call

        run(main())

    def test_draining_has_a_limit(self) -> None:
        """A client that does not read holds up a drain for its time only."""

        async def main() -> None:
            async with closing_server(server_of()) as server:
                await server.drain(timeout_s=0)
                with raw_peer(server) as sock:
                    frame = request_frame(1, ECHO.service, ECHO.name, bytes(1 << 20))
                    sock.setblocking(False)
                    await sockets.send_all(sock, frame)
                    (session,) = server._sessions
                    await wait_until(lambda: session._connection.queued_bytes)
                    await server.drain(timeout_s=0.01)
                    assert session._connection.queued_bytes

        run(main())

    def test_a_client_that_does_not_read_is_not_read(self) -> None:
        """Beyond a limit of unread replies, no more requests are taken."""
        served = 0

        async def much(_: Note, __: Context) -> Note:
            nonlocal served
            served += 1
            return Note("x" * (1 << 20))

        async def main() -> None:
            async with closing_server(server_of(much)) as server:
                with raw_peer(server) as sock:
                    for i in range(0, 40, 2):
                        sock.sendall(request_frame(i + 1, ECHO.service, ECHO.name))
                        for _turn in range(10):
                            await asyncio.sleep(0)
                    before = served
                    assert before < 20
                    assert len(await read_statuses(sock, 20)) == 20

        run(main())
        assert served == 20


class Listener(socket.socket):
    """A listening socket, whose accept fails if so wished."""

    def __init__(self, path: Path, failure: int = 0) -> None:
        super().__init__(socket.AF_UNIX)
        self.failure = failure
        self.bind(str(path))
        self.listen()

    def accept(self) -> Any:
        """Accept, or fail."""
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure))
        return super().accept()


class TestListening:
    """Accepting connections."""

    def test_on_a_path(self, tmp_path: Path) -> None:
        """A client finds the server by path; after the end the listener is closed."""
        path = f"{tmp_path}/s"

        async def main() -> None:
            listener = Listener(tmp_path / "s")
            async with closing_server(server_of()) as server:
                server.listen_on(listener)
                with pytest.raises(LocalProtocolError):
                    server.listen_on(listener)
                client = await Client.connect(f"unix://{path}")
                assert Note("x") == await client.call(ECHO, Note("x"))
                server.stop_listening()
                server.stop_listening()
                assert listener.fileno() == -1
                assert Note("y") == await client.call(ECHO, Note("y"))
                with pytest.raises(Unavailable):
                    await Client.connect(path)
                client.close()

        run(main())

    def test_when_descriptors_run_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Callers wait in the backlog, without a busy loop, until there is room."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

        async def main() -> None:
            listener = Listener(tmp_path / "s")
            async with closing_server(server_of()) as server:
                server.listen_on(listener)
                client = await Client.connect(f"{tmp_path}/s")
                lowest = os.dup(0)
                os.close(lowest)
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
                await wait_until(lambda: caplog.records)
                call = asyncio.ensure_future(client.call(ECHO, Note("x")))
                for _turn in range(20):
                    await asyncio.sleep(0)
                assert not call.done()
                assert len(caplog.records) == 1
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert Note("x") == await call
                client.close()

        try:
            run(main())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "cannot accept for now" in caplog.text

    def test_a_crowd_of_silent_connections(self, tmp_path: Path) -> None:
        """who-speaks-stays: the oldest silent one makes room, for as many as come."""

        async def main() -> None:
            listener = Listener(tmp_path / "s")
            async with closing_server(server_of(max_connections=3)) as server:
                server.listen_on(listener)
                speaker = await Client.connect(f"{tmp_path}/s")
                assert Note("x") == await speaker.call(ECHO, Note("x"))
                silent = [await Client.connect(f"{tmp_path}/s") for _ in range(4)]
                await asyncio.wait([client.closed for client in silent[:2]], timeout=5)
                assert [True, True, False, False] == [
                    client.closed.done() for client in silent
                ]
                assert 3 == server.connections
                for client in (*silent[2:], speaker):
                    assert Note("y") == await client.call(ECHO, Note("y"))
                late = await Client.connect(f"{tmp_path}/s")
                await asyncio.wait([late.closed], timeout=5)
                assert late.closed.done()
                assert Note("z") == await speaker.call(ECHO, Note("z"))
                for client in (*silent, speaker, late):
                    client.close()

        run(main())

    def test_silent_connections_make_room_for_descriptors(self, tmp_path: Path) -> None:
        """who-speaks-stays: also where the descriptors run out before the limit."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

        async def main() -> None:
            listener = Listener(tmp_path / "s")
            async with closing_server(server_of()) as server:
                server.listen_on(listener)
                silent = await Client.connect(f"{tmp_path}/s")
                await wait_until(lambda: server.connections)
                client = await Client.connect(f"{tmp_path}/s")
                lowest = os.dup(0)
                os.close(lowest)
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
                assert Note("x") == await client.call(ECHO, Note("x"))
                assert silent.closed.done()
                client.close()

        try:
            run(main())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_leaving_while_descriptors_are_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A server that looks away from its listener can still stop listening."""

        async def main() -> None:
            listener = Listener(tmp_path / "s", errno.EMFILE)
            server = server_of()
            server.listen_on(listener)
            client = await Client.connect(f"{tmp_path}/s")
            await wait_until(lambda: caplog.records)
            server.stop_listening()
            await client.closed
            await server.close()

        run(main())

    def test_a_listener_that_is_broken(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An error that will not pass ends the listening, with a word in the log."""

        async def main() -> None:
            listener = Listener(tmp_path / "s", errno.EINVAL)
            server = server_of()
            server.listen_on(listener)
            client = await Client.connect(f"{tmp_path}/s")
            await wait_until(lambda: caplog.records)
            assert listener.fileno() == -1
            await client.closed
            await server.close()

        run(main())
        assert "stopped listening" in caplog.text


class TestPeers:
    """Who may connect."""

    @pytest.mark.parametrize("name", ["geteuid", "getegid"])
    def test_another_user_or_group_is_refused(
        self,
        name: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A peer whose user or group is not ours sees the end at once, and no bytes."""
        own = getattr(os, name)()

        async def main() -> None:
            server = server_of()
            monkeypatch.setattr(os, name, lambda: own + 1)
            with raw_peer(server) as sock:
                assert sock.recv(1) == b""
            assert server.connections == 0

        run(main())
        assert "refused" in caplog.text

    def test_anyone_if_so_wished(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the check, a peer of another group is served."""

        async def main() -> None:
            monkeypatch.setattr(os, "getegid", lambda: -5)
            async with connected_pair(server_of(check_peer=False)) as client:
                assert Note("x") == await client.call(ECHO, Note("x"))

        run(main())

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its group")
    def test_a_real_process_of_another_group(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A process whose effective group differs gets the end and no bytes."""

        async def main() -> None:
            listener = Listener(tmp_path / "s")
            async with closing_server(server_of()) as server:
                child = os.fork()
                if child == 0:
                    status = 1
                    try:
                        os.setegid(os.getegid() + 12345)
                        with socket.socket(socket.AF_UNIX) as sock:
                            sock.settimeout(5)
                            sock.connect(f"{tmp_path}/s")
                            status = 42 if sock.recv(1) == b"" else 2
                    finally:
                        os._exit(status)
                pidfd = os.pidfd_open(child)
                loop = asyncio.get_running_loop()
                gone = asyncio.Event()
                loop.add_reader(pidfd, gone.set)
                try:
                    server.listen_on(listener)
                    await gone.wait()
                    status = os.waitpid(child, 0)[1]
                finally:
                    loop.remove_reader(pidfd)
                    os.close(pidfd)
                assert os.waitstatus_to_exitcode(status) == 42

        run(main())
        assert "refused" in caplog.text
