"""ttrpc with containerd's own implementation, in Go, at the other end of the wire."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from tests.ttrpc.notes import run

from dunnage.errors import (
    ConnectionBroken,
    DeadlineExceeded,
    EndOfStream,
    FailedPrecondition,
    NotFound,
    Unimplemented,
    from_status,
)
from dunnage.ttrpc.aio.client import Client
from dunnage.ttrpc.aio.server import Context, Server
from dunnage.ttrpc.aio.streams import ServerStream
from dunnage.ttrpc.services import Kind, Method

from .daemon import PEERS

PEER = PEERS / "ttrpc-go/usr/bin/ttrpc-peer"
_NAME = "dunnage.test.Peer"


def method(name: str, kind: Kind = Kind.UNARY) -> Method[StringValue, StringValue]:
    """Return a method of the peer's service."""
    return Method(_NAME, name, StringValue, StringValue, kind)


COUNT = method("Count", Kind.SERVER_STREAM)
JOIN = method("Join", Kind.CLIENT_STREAM)
CHAT = method("Chat", Kind.BOTH_STREAM)
STALL = method("Stall", Kind.CLIENT_STREAM)

_Stream = ServerStream[StringValue, StringValue]


@pytest.fixture(autouse=True)
def peer() -> None:
    """Fail, rather than skip, without the peer."""
    if not PEER.exists():
        pytest.fail(f"{PEER} is missing: run script/peers")


@asynccontextmanager
async def go_server(directory: Path) -> AsyncIterator[Client]:
    """Yield a client of the Go server."""
    path = directory / "s"
    process = subprocess.Popen([PEER, "serve", path])
    try:
        while not path.exists():
            assert process.poll() is None
            await asyncio.sleep(0.005)
        client = await _connect(str(path))
        yield client
        client.close()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def _connect(path: str) -> Client:
    """Connect, as soon as the server listens on the socket that it has bound."""
    while True:
        try:
            return await Client.connect(path)
        except ConnectionBroken:
            await asyncio.sleep(0.005)


async def ask(client: Client, name: str, value: str = "", **options: Any) -> str:
    """Call a unary method."""
    reply = await client.call(method(name), StringValue(value=value), **options)
    return reply.value


class TestTheirServer:
    """Our client, the Go server."""

    def test_unary_calls(self, tmp_path: Path) -> None:
        """Replies, errors, metadata and time-outs get through."""

        async def main() -> None:
            async with go_server(tmp_path) as client:
                assert await ask(client, "Echo", "hello") == "hello"
                assert await ask(client, "Echo") == ""
                with pytest.raises(NotFound, match=r"^no such thing$"):
                    await ask(client, "Fail", "5 no such thing")
                with pytest.raises(Unimplemented):
                    await ask(client, "Nope")
                tagged = await ask(client, "Metadata", "key", metadata={"Key": "v"})
                assert tagged == "v"
                assert await ask(client, "Deadline") == "false"
                assert await ask(client, "Deadline", timeout_s=60) == "true"
                many = [ask(client, "Echo", str(i)) for i in range(200)]
                assert [*map(str, range(200))] == await asyncio.gather(*many)

        run(main())

    def test_a_stream_of_replies(self, tmp_path: Path) -> None:
        """Many, none, and an error after some."""

        async def main() -> None:
            async with go_server(tmp_path) as client:
                for count in (0, 3, 10_000):
                    with client.stream(COUNT, StringValue(value=str(count))) as stream:
                        found = [message.value async for message in stream]
                    assert [*map(str, range(count))] == found
                with client.stream(COUNT, StringValue(value="1 9 not now")) as stream:
                    assert (await stream.receive()).value == "0"
                    with pytest.raises(FailedPrecondition, match=r"^not now$"):
                        await stream.receive()

        run(main())

    def test_a_stream_of_requests(self, tmp_path: Path) -> None:
        """All of them arrive, in order, the empty ones too."""

        async def main() -> None:
            async with go_server(tmp_path) as client:
                for words in ([], ["a", "", "b"], [*map(str, range(5000))]):
                    with client.stream(JOIN) as stream:
                        for word in words:
                            await stream.send(StringValue(value=word))
                        assert (await stream.reply()).value == ",".join(words)

        run(main())

    def test_both(self, tmp_path: Path) -> None:
        """Each side speaks when it likes, and either may end it."""

        async def main() -> None:
            async with go_server(tmp_path) as client:
                with client.stream(CHAT) as stream:
                    for word in ("a", "b"):
                        await stream.send(StringValue(value=word))
                        assert (await stream.receive()).value == f"<{word}>"
                    stream.end()
                    with pytest.raises(EndOfStream):
                        await stream.receive()
                with client.stream(CHAT) as stream:
                    await stream.send(StringValue(value="bye"))
                    with pytest.raises(EndOfStream):
                        await stream.receive()
                    with pytest.raises(EndOfStream):
                        await stream.send(StringValue(value="too late"))
                assert await ask(client, "Echo", "x") == "x"

        run(main())

    def test_giving_up(self, tmp_path: Path) -> None:
        """A stream that is left in the middle harms no other call."""

        async def main() -> None:
            async with go_server(tmp_path) as client:
                with client.stream(COUNT, StringValue(value="10000")) as stream:
                    await stream.receive()
                with client.stream(STALL, timeout_s=0.05) as stream:
                    await stream.send(StringValue(value="x"))
                    with pytest.raises(DeadlineExceeded):
                        await stream.reply()
                assert await ask(client, "Echo", "x") == "x"

        run(main())


async def _count(stream: _Stream, _: Context) -> None:
    until, *failure = (await stream.receive()).value.split(" ", 2)
    for i in range(int(until)):
        await stream.send(StringValue(value=str(i)))
    if failure:
        code, text = failure
        raise from_status(int(code), text)


async def _join(stream: _Stream, _: Context) -> StringValue:
    return StringValue(value=",".join([message.value async for message in stream]))


async def _chat(stream: _Stream, _: Context) -> None:
    async for message in stream:
        if message.value == "bye":
            return
        await stream.send(StringValue(value=f"<{message.value}>"))


def our_server() -> Server:
    """Return a server that does what the Go server does."""

    async def echo(request: StringValue, _: Context) -> StringValue:
        return request

    async def fail(request: StringValue, _: Context) -> StringValue:
        code, text = request.value.split(" ", 1)
        raise from_status(int(code), text)

    async def metadata(request: StringValue, context: Context) -> StringValue:
        return StringValue(value=context.metadata.get(request.value, ""))

    async def deadline(_: StringValue, context: Context) -> StringValue:
        return StringValue(value=str(context.deadline is not None).lower())

    async def hang(_: StringValue, __: Context) -> StringValue:
        await asyncio.get_running_loop().create_future()
        return StringValue()

    server = Server()
    for handler in (echo, fail, metadata, deadline, hang):
        server.register(method(handler.__name__.capitalize()), handler)
    server.register_stream(COUNT, _count)
    server.register_stream(JOIN, _join)
    server.register_stream(CHAT, _chat)
    return server


# The suffix is containerd's, which our errors put on the wire.
SAID = """\
echo: hello
empty: {}
fail: rpc error: code = NotFound desc = no such thing: not found
metadata: value
deadline: true
expired: context deadline exceeded
no method: rpc error: code = Unimplemented desc = method Nope
parallel: 200 good
count: 0 1 2 3 4 end
count none: end
count many: 10001 0 9999 end
count fails: 0 1 rpc error: code = OutOfRange desc = not now: out of range
join: a,,b end
join none:  end
chat: <a> <b> <c> end
bye: <a> end
no stream: rpc error: code = Unimplemented desc = method Nope
echo again: still here
""".format("")


def test_their_client(tmp_path: Path) -> None:
    """The Go client gets from our server what the Go server would give it."""
    path = f"{tmp_path}/s"

    async def main() -> str:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        server = our_server()
        server.listen_on(listener)
        process = subprocess.Popen([PEER, "call", path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        pidfd = os.pidfd_open(process.pid)
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, gone.set)
        try:
            await gone.wait()
            assert process.wait() == 0
            return process.stdout.read().decode()
        finally:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
            process.kill()
            process.wait()
            process.stdout.close()
            await server.close()

    assert SAID == run(main())
