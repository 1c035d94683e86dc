"""Reading and writing a bare socket in a test, on whichever loop it runs."""

from __future__ import annotations

import asyncio
import contextlib
import socket


async def recv(sock: socket.socket, size: int) -> bytes:
    """Read once, when there is something to read."""
    await _ready(sock, writable=False)
    return sock.recv(size)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Write everything."""
    while data:
        await _ready(sock, writable=True)
        with contextlib.suppress(BlockingIOError):
            data = data[sock.send(data) :]


async def accept(listener: socket.socket) -> socket.socket:
    """Accept a connection that does not block."""
    await _ready(listener, writable=False)
    sock, _ = listener.accept()
    sock.setblocking(False)
    return sock


async def _ready(sock: socket.socket, *, writable: bool) -> None:
    """Wait until a socket can be read, or written."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add = loop.add_writer if writable else loop.add_reader
    remove = loop.remove_writer if writable else loop.remove_reader

    def note() -> None:
        if not ready.done():
            ready.set_result(None)

    add(sock, note)
    try:
        await ready
    finally:
        remove(sock)
