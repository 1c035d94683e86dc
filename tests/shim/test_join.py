"""What a `start` that joins makes of a shim that answers, leaves, or says nothing."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.peers.daemon import peer

from dunnage.api import task_v2_pb2 as pb
from dunnage.api.services import TASK_V2
from dunnage.bootstrap import wire
from dunnage.errors import DunnageError, Unavailable
from dunnage.shim import join as join_module
from dunnage.shim.join import COMING, join
from dunnage.ttrpc.aio.server import Context, Server

from .harness import LIMIT_S, STOCK, Shim, ended, in_loop, spec


@pytest.fixture
def path() -> Iterator[str]:
    """Give a path for a socket."""
    with tempfile.TemporaryDirectory(prefix="dn-", dir="/tmp") as name:
        yield f"{name}/socket"


def listening(path: str) -> socket.socket:
    """Return a socket that listens at a path."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


@pytest.mark.parametrize("refusal", [None, Unavailable, DunnageError])
@in_loop
async def test_the_answer_is_the_promise(
    path: str, refusal: type[DunnageError] | None
) -> None:
    """Whoever answers stays, but the one that says that it leaves."""
    heard = []

    async def connect(
        request: pb.ConnectRequest, context: Context
    ) -> pb.ConnectResponse:
        heard.append((request.id, COMING in context.metadata))
        if refusal:
            raise refusal("no")
        return pb.ConnectResponse()

    server = Server()
    server.register(TASK_V2.connect, connect)
    server.listen_on(listening(path))
    joined = await asyncio.to_thread(join, path, "c")
    await server.close()
    assert [("c", True)] == heard
    assert bool(joined) == (refusal is not Unavailable)


@in_loop
async def test_a_shim_that_cannot_connect_is_a_shim(path: str) -> None:
    """One that does not know the method has answered all the same."""
    server = Server()
    server.listen_on(listening(path))
    assert await asyncio.to_thread(join, path, "c")
    await server.close()


def close_at_once(peer: socket.socket) -> None:
    """Leave with a request unread."""


def close_politely(peer: socket.socket) -> None:
    """Leave with the request read."""
    peer.recv(1 << 16)


@pytest.mark.parametrize("behave", [close_at_once, close_politely])
def test_a_shim_that_closes_has_left(
    path: str, behave: Callable[[socket.socket], None]
) -> None:
    """What closes without an answer is no shim to come to."""

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            behave(peer)

    with listening(path) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        joined = join(path, "c")
        thread.join()
    assert not joined


def test_a_backlog_that_is_dropped_is_no_shim(path: str) -> None:
    """Who waits in the backlog of one that stops to listen looks again."""
    assert not join(path, "c")  # nothing there
    listener = listening(path)
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(join(path, "c")))
    thread.start()
    # It becomes readable when somebody waits in it.
    assert select.select([listener], [], [], LIMIT_S)[0]
    listener.close()
    thread.join()
    assert [0] == answers
    assert not join(path, "c")  # stale


def test_a_silent_shim_is_alive(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is stopped keeps its socket; so does one whose backlog is full."""
    monkeypatch.setattr(join_module, "_ANSWER_LIMIT_S", 0.05)
    with listening(path) as listener:
        assert join(path, "c")
        listener.listen(0)  # that one still waits in it
        assert join(path, "c")


@pytest.mark.slow
@in_loop
async def test_one_with_version_3_alone_is_told_as_such(tmp_path: Path) -> None:
    """No daemon asks for version 3 of a shim whose address was said plainly."""
    config = spec(["true"], annotations={"io.containerd.runc.v2.group": "pod"})
    stock = peer("containerd-2.1", "containerd-shim-runc-v2")
    async with Shim(tmp_path, stock) as shim:
        answers = []
        for id_, binary in (("a", stock), ("b", Shim(tmp_path).binary)):
            shim.bundle(id_, config)
            shim.binary = binary
            answers.append(wire.parse_answer(shim.start_action(id_).stdout))
    assert answers[0] == answers[1]
    assert 3 == answers[1].version


@pytest.mark.slow
@in_loop
async def test_another_s_shim_is_joined(tmp_path: Path) -> None:
    """In the stock shim's place: the shim of a running pod is the stock one still."""
    config = spec(["true"], annotations={"io.containerd.runc.v2.group": "pod"})
    async with Shim(tmp_path, STOCK) as shim:
        await shim.up("a", config=config)
        server = (await shim.call("a", "connect")).shim_pid
        shim.binary = Shim(tmp_path).binary
        await shim.up("b", config=config)
        assert server == (await shim.call("b", "connect")).shim_pid
        for id_ in ("a", "b"):
            assert (await shim.call(id_, "create")).pid
        os.kill(server, signal.SIGKILL)
        await ended(server)
