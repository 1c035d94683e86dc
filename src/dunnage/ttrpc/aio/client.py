"""The calling end: `Client.call` sends a request and waits for its answer.

`Client.stream` does the same for methods whose requests or replies are streams.

Must not know: how bytes are moved, frames.

Invariant (each-call-ends): every call ends with its reply, an error of the peer, its
time-out, or the end of the connection.
There is no reconnection: a client is as long as its connection.
"""

from __future__ import annotations

import asyncio
import math
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from dunnage.errors import (
    ConnectionBroken,
    ConnectionClosed,
    DeadlineExceeded,
    DunnageError,
    InvalidArgument,
    LocalProtocolError,
    RemoteProtocolError,
)
from dunnage.ttrpc.connection import ClientConnection
from dunnage.ttrpc.events import CallFailed, ResponseReceived, StreamReadable
from dunnage.ttrpc.services import Kind

from .link import Link
from .streams import ClientStream, same

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dunnage.ttrpc.services import Method, Req, Resp

_NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})
_MAX_TIMEOUT_NS: Final = (1 << 63) - 1

# A unix socket whose backlog is full says so at once, and nothing tells when it is not.
_BACKLOG_RETRY_S: Final = 0.01


class Client:
    """Calls methods over one connection, any number of them at a time.

    Make it while a loop runs.

    Args:
        sock: A connected stream socket; the client owns it from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = ClientConnection()
        self._replies: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, ClientStream[Any, Any]] = {}
        self._idle: asyncio.Future[None] | None = None
        self._link = Link(
            sock, self._connection, on_event=self._on_event, on_end=self._on_end
        )
        self.closed: asyncio.Future[None] = self._link.closed
        """Done once the connection has ended, whoever ended it.

        Add a callback, or shield it when you wait: cancelling it would end it for all.
        """

    @classmethod
    async def connect(cls, address: str, *, timeout_s: float | None = None) -> Self:
        """Connect to a unix socket.

        Cancelling it leaves nothing behind.

        Args:
            address: ``unix:///path`` or ``/path``; without a scheme or a slash in
                front it is a name in the abstract namespace.
            timeout_s: How long to wait while the server's backlog is full; None is for
                ever.

        Raises:
            ConnectionBroken: Nobody can be reached there; its cause is the `OSError`.
        """
        target = _socket_name(address)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await _connect(sock, target, timeout_s)
        except OSError as error:
            sock.close()
            raise ConnectionBroken(f"cannot connect to {address}: {error}") from error
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def call(
        self,
        method: Method[Req, Resp],
        request: Req,
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] = _NO_METADATA,
    ) -> Resp:
        """Call a method and return its reply.

        Cancelling it, like a time-out, only forgets the call: the peer is not told,
        carries on, and its reply is dropped.

        Raises:
            DunnageError: The class that stands for the code that the peer answered.
            DeadlineExceeded: There was no reply within ``timeout_s``.
            ConnectionBroken: The connection ended first; the peer may have acted.
            ConnectionClosed: Likewise, and it was `close` that ended it.
            RemoteProtocolError: The reply is not what the method returns.
        """
        if method.kind is not Kind.UNARY:
            raise LocalProtocolError(f"{method.full_name} is to be called by stream()")
        stream_id = self._send_request(method, request, timeout_s, metadata)
        reply = self._replies[stream_id] = self._loop.create_future()
        timer = None
        if timeout_s is not None:
            timer = self._loop.call_later(
                timeout_s, _expire, reply, method.full_name, timeout_s
            )
        self._link.flush()
        try:
            payload = await reply
        finally:
            if timer is not None:
                timer.cancel()
            self._replies.pop(stream_id, None)
            self._connection.abandon(stream_id)
            if self._idle is not None:
                self._look_for_the_end()
            # An error has this frame in its traceback: don't let it hold itself.
            del reply
        try:
            return method.response.FromString(payload)
        except Exception as error:
            # Any exception: which ones a codec raises is its own affair.
            text = f"{method.full_name}: the reply cannot be read: {error}"
            raise RemoteProtocolError(text) from error

    def stream(
        self,
        method: Method[Req, Resp],
        request: Req | None = None,
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] = _NO_METADATA,
    ) -> ClientStream[Resp, Req]:
        """Call a method of which one side, or both, is a stream; use it by ``with``.

        Args:
            method: Not a unary one.
            request: The one request, if the client does not stream; then it is a must.
            timeout_s: For the whole stream; the peer is told.
            metadata: As of `call`.

        Raises:
            DeadlineExceeded: There is no time left at all.
            ConnectionBroken: The connection has ended.
            ConnectionClosed: Likewise, and it was `close` that ended it.
        """
        if method.kind is Kind.UNARY:
            raise LocalProtocolError(f"{method.full_name} is to be called by call()")
        if method.kind.client_streams is (request is not None):
            text = "takes its requests by send()" if request else "needs its request"
            raise LocalProtocolError(f"{method.full_name} {text}")
        stream_id = self._send_request(method, request, timeout_s, metadata)
        deadline = None if timeout_s is None else self._loop.time() + timeout_s
        stream = self._streams[stream_id] = ClientStream(
            self._link, self._connection, stream_id, method, deadline, self._forget
        )
        self._link.flush()
        return stream

    async def shutdown(self, *, timeout_s: float) -> None:
        """Let the calls in flight end, at most ``timeout_s``, then close.

        New calls are refused meanwhile, with `ConnectionClosed`.
        Cancelling it closes at once.
        """
        if self._idle is None:
            self._idle = self._loop.create_future()
        self._look_for_the_end()
        try:
            await asyncio.wait([self._idle], timeout=timeout_s)
        finally:
            self.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, to ask the kernel about; -1 once closed."""
        return self._link.fileno()

    def close(self) -> None:
        """End the connection; calls in flight fail with `ConnectionClosed`."""
        self._link.close()

    def _send_request(
        self,
        method: Method[Req, Resp],
        request: Req | None,
        timeout_s: float | None,
        metadata: Mapping[str, str],
    ) -> int:
        if self._link.error is not None:
            raise same(self._link.error)
        if self._idle is not None:
            raise ConnectionClosed("the connection is being closed")
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlineExceeded(f"{method.full_name}: no time was left for it")
        return self._connection.send_request(
            method.service,
            method.name,
            b"" if request is None else request.SerializeToString(),
            timeout_ns=_to_ns(timeout_s),
            metadata=[(key.lower(), value) for key, value in metadata.items()],
            kind=method.kind,
        )

    def _forget(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)
        self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        idle = self._idle
        if idle is None or idle.done() or self._replies or self._streams:
            return
        idle.set_result(None)

    def _on_event(self, event: ResponseReceived | StreamReadable | CallFailed) -> None:
        if isinstance(event, StreamReadable):
            self._streams[event.stream_id].wake()
            return
        reply = self._replies.pop(event.stream_id)
        if reply.done():
            return  # cancelled or expired in this very step of the loop
        if isinstance(event, CallFailed):
            reply.set_exception(event.error)
        else:
            reply.set_result(event.payload)

    def _on_end(self, error: DunnageError) -> None:
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            if not reply.done():
                reply.set_exception(same(error))
        for stream in self._streams.values():
            stream.wake()
        self._look_for_the_end()


def _socket_name(address: str) -> str:
    path = address.removeprefix("unix://")
    if path.startswith("/"):
        return path
    if "://" in address or not address:
        raise InvalidArgument(f"{address!r} is not the address of a unix socket")
    return "\0" + address


async def _connect(sock: socket.socket, target: str, timeout_s: float | None) -> None:
    loop = asyncio.get_running_loop()
    deadline = math.inf if timeout_s is None else loop.time() + timeout_s
    sock.settimeout(0)
    while True:
        try:
            sock.connect(target)
        except BlockingIOError:
            if loop.time() >= deadline:
                raise
        else:
            return
        await asyncio.sleep(_BACKLOG_RETRY_S)


def _expire(reply: asyncio.Future[bytes], name: str, timeout_s: float) -> None:
    if not reply.done():
        reply.set_exception(
            DeadlineExceeded(f"{name}: no reply within {timeout_s:g} s")
        )


def _to_ns(timeout_s: float | None) -> int:
    # 0 on the wire is "for ever", so nothing is rounded down to it.
    if timeout_s is None:
        return 0
    return max(1, int(min(timeout_s * 1e9, _MAX_TIMEOUT_NS)))
