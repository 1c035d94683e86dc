"""A daemon's event socket whose answers are scripted, on a real ttrpc server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from dunnage.api.services import EVENTS
from dunnage.descriptors import Empty
from dunnage.ttrpc.aio.server import Context, Server

if TYPE_CHECKING:
    from dunnage.api.forward_pb2 import ForwardRequest

LIMIT_S = 5.0


class FakeDaemon:
    """Hears events and answers as the script says; with success once it is over.

    An entry of ``script`` is an error to answer with, or a coroutine function to wait
    for before success is answered.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.heard: list[bytes] = []
        self.metadata: list[dict[str, str]] = []
        self.script: list[Exception | Callable[[], Awaitable[None]]] = []
        self.connections = 0
        self._server: Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = Server()
        self._server.register(EVENTS.forward, self._forward)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen()
        self._server.listen_on(listener)

    async def stop(self) -> None:
        """Go away like a daemon that is killed: the socket's file stays."""
        if self._server is not None:
            await self._server.close()
            self._server = None

    async def restart(self) -> None:
        """Come back."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        await self.start()

    async def hang_up(self) -> None:
        """Close every connection: what is in flight is never answered."""
        assert self._server is not None
        for session in list(self._server._sessions):
            session.link.close()

    async def hang(self) -> None:
        """Never answer."""
        await asyncio.get_running_loop().create_future()

    async def _forward(self, request: ForwardRequest, context: Context) -> Empty:
        self.heard.append(request.envelope.SerializeToString())
        self.metadata.append(dict(context.metadata))
        if self.script:
            answer = self.script.pop(0)
            if isinstance(answer, Exception):
                raise answer
            await answer()
        return Empty()


@contextlib.asynccontextmanager
async def serving(path: str) -> AsyncIterator[FakeDaemon]:
    """Have a daemon listen for the block."""
    daemon = FakeDaemon(path)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a limit."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)
