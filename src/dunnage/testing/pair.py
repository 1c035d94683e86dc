"""A ttrpc client and server in one process, without a name in any file system."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dunnage.ttrpc.aio.client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dunnage.ttrpc.aio.server import Server


@asynccontextmanager
async def connected_pair(server: Server) -> AsyncIterator[Client]:
    """Yield a client that is connected to ``server``; close both afterwards.

    ::

        server = Server()
        server.register(PING, ping)
        async with connected_pair(server) as client:
            reply = await client.call(PING, PingRequest())
    """
    client = connect_to(server)
    try:
        yield client
    finally:
        client.close()
        await server.close()


def connect_to(server: Server) -> Client:
    """Return one more client of ``server``; closing it is the caller's affair."""
    ours, theirs = socket.socketpair()
    server.serve(theirs)
    return Client(ours)
