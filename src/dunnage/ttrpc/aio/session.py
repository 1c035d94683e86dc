"""One connection that is being served: a handler for each request, a reply from each.

Owns the tasks of the handlers that run for this connection.
Must not know: where connections come from, how bytes are moved, frames.

Invariant (reader-never-waits): a handler runs as a task of its own, unless it is
synchronous; requests are read while it runs, and replies go out in the order in which
handlers end.
Invariant (no-orphan-handler): when a connection ends, the handlers that run for it are
cancelled; what must outlive its request shields itself.
Invariant (queued-before-return): a reply is queued in the step in which its handler
returns, so what the handler wakes up last finds it queued and can `Server.drain`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dunnage.errors import (
    Cancelled,
    DunnageError,
    Internal,
    LocalProtocolError,
    ProtocolError,
    Unavailable,
    Unimplemented,
    Unknown,
)
from dunnage.ttrpc.connection import ServerConnection
from dunnage.ttrpc.events import CallFailed, RequestReceived, StreamReadable
from dunnage.ttrpc.services import Kind

from .context import Context, Peer
from .link import Link
from .room import Room
from .streams import ServerStream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dunnage.ttrpc.services import Message, Method

_log: Final = logging.getLogger("dunnage.ttrpc")

# Output that a slow client has not taken; beyond it, nothing more is read from it.
_QUEUE_LIMIT_BYTES: Final = 1 << 20

Handler: TypeAlias = "Callable[[Any, Context], Any]"
# Whether its handler is synchronous stands last.
Entry: TypeAlias = "tuple[Method[Any, Any], Handler, bool]"
Services: TypeAlias = "dict[str, dict[str, Entry]]"


class Session:
    """One connection that is being served.

    Args:
        sock: The session owns it from now on.
        peer: Who is at the other end.
        services: The table of methods.
        tasks: Where the server keeps the tasks of all handlers.
        room: Where it is noted whether this one may have to make room for others.
        on_end: Called once, when the connection has ended.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        services: Services,
        tasks: set[asyncio.Task[None]],
        room: Room,
        on_end: Callable[[Session], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.peer = peer
        self._plain = Context(peer=peer)
        self._room = room
        self._services = services
        self._tasks = tasks
        self._on_end = on_end
        self._running: set[asyncio.Task[None]] = set()
        self._streams: dict[int, _Served] = {}
        self._connection = ServerConnection()
        self.is_leaving = False
        self._has_unread = False
        self.link = Link(
            sock,
            self._connection,
            on_event=self._on_event,
            on_end=self._end,
            on_read=self._note_unread,
            queue_limit_bytes=_QUEUE_LIMIT_BYTES,
        )

    def close(self) -> None:
        """End the connection now; what was not written is lost."""
        self.link.close()

    def _on_event(self, event: RequestReceived | StreamReadable | CallFailed) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, CallFailed):
            self._drop(event.stream_id, event.error)
        elif served := self._streams.get(event.stream_id):
            served.stream.wake()

    def _begin(self, request: RequestReceived) -> None:
        stream_id = request.stream_id
        self._room.spoke(self)
        if self.is_leaving:
            text = "the server is shutting down"
            self._connection.send_error(stream_id, Unavailable.code, text)
            return
        found = _find(self._services, request)
        if isinstance(found, str):
            self._connection.send_error(stream_id, Unimplemented.code, found)
            return
        method, handler, is_sync = found
        context = self._context(request)
        if method.kind is Kind.UNARY:
            if request.is_open:
                self._connection.close_input(stream_id)
            if is_sync:
                self._answer_now(request, method, handler, context)
            else:
                _ = self._run(self._answer(request, method, handler, context))
            return
        stream: ServerStream[Any, Any] = ServerStream(
            self.link, self._connection, request, method, context.deadline, self._fail
        )
        work = self._answer_stream(stream, method, handler, context)
        self._streams[stream_id] = _Served(stream, self._run(work))

    def _maybe_message(
        self, request: RequestReceived, method: Method[Any, Any]
    ) -> Any | None:
        """Return the message of a request; None if it is none, which is answered."""
        try:
            return method.request.FromString(request.payload)
        except Exception as error:  # noqa: BLE001 - codecs raise what they like
            text = f"ttrpc: error unmarshalling payload: {error}"
            self._reply_error(request.stream_id, Internal.code, text)
            return None

    def _answer_now(
        self,
        request: RequestReceived,
        method: Method[Any, Any],
        handler: Handler,
        context: Context,
    ) -> None:
        message = self._maybe_message(request, method)
        if message is None:
            return
        try:
            payload = _encode(handler(message, context))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - answered
            self._reply_error(request.stream_id, *_status_of(error, method))
        else:
            self._reply(request.stream_id, payload)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._running.add(task)
        self._tasks.add(task)
        task.add_done_callback(self._has_run)
        return task

    def _has_run(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._tasks.discard(task)

    async def _answer(
        self,
        request: RequestReceived,
        method: Method[Any, Any],
        handler: Handler,
        context: Context,
    ) -> None:
        message = self._maybe_message(request, method)
        if message is None:
            self.link.flush()
            return
        try:
            payload = _encode(await handler(message, context))
        except (Exception, asyncio.CancelledError) as error:
            self._reply_error(request.stream_id, *_status_of(error, method))
            self.link.flush()
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self._reply(request.stream_id, payload)
            self.link.flush()

    async def _answer_stream(
        self,
        stream: ServerStream[Any, Any],
        method: Method[Any, Any],
        handler: Handler,
        context: Context,
    ) -> None:
        stream_id = stream.stream_id
        try:
            reply = await handler(stream, context)
            payload = b"" if method.kind.server_streams else _encode(reply)
        except (Exception, asyncio.CancelledError) as error:
            # Dropped means answered: the id may be another call's by now.
            if self._forget(stream):
                self._reply_error(stream_id, *_status_of(error, method))
                self.link.flush()
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        if not self._forget(stream) or self.link.error is not None:
            return
        if method.kind.server_streams:
            self._connection.end_stream(stream_id)
        else:
            self._connection.send_response(stream_id, payload)
        self.link.flush()

    def _forget(self, stream: ServerStream[Any, Any]) -> bool:
        """Take a stream off the table; return whether it was still there."""
        served = self._streams.get(stream.stream_id)
        if served is None or served.stream is not stream:
            return False
        del self._streams[stream.stream_id]
        stream.close(LocalProtocolError("this stream was answered"))
        return True

    def _fail(self, stream_id: int, error: DunnageError) -> None:
        self._connection.send_error(stream_id, error.code, error.message)
        self._drop(stream_id, error)
        self.link.flush()

    def _drop(self, stream_id: int, error: DunnageError) -> None:
        """End the handler of a stream that was answered without it."""
        served = self._streams.pop(stream_id, None)
        if served is not None:
            served.stream.close(error)
            served.task.cancel()

    def _reply(self, stream_id: int, payload: bytes) -> None:
        """Queue a reply; what is queued while events come is written after them."""
        if self.link.error is None:
            self._connection.send_response(stream_id, payload)

    def _reply_error(self, stream_id: int, code: int, text: str) -> None:
        if self.link.error is None:
            self._connection.send_error(stream_id, code, text)

    def _note_unread(self) -> None:
        unread_bytes = self._connection.unread_bytes
        if unread_bytes or self._has_unread:
            self._has_unread = unread_bytes > 0
            self._room.hold(self, unread_bytes)

    def _context(self, request: RequestReceived) -> Context:
        if not request.metadata and not request.timeout_ns:
            return self._plain
        metadata: dict[str, str] = {}
        for key, value in request.metadata:
            metadata.setdefault(key.lower(), value)
        deadline = None
        if request.timeout_ns:
            deadline = self._loop.time() + request.timeout_ns / 1e9
        return Context(metadata, deadline, self.peer)

    def _end(self, error: DunnageError) -> None:
        if isinstance(error, ProtocolError):
            _log.warning("lost a connection of %s: %s", self.peer, error)
        for served in self._streams.values():
            served.stream.wake()
        for task in self._running:
            task.cancel()
        self._room.leave(self)
        self._on_end(self)


@dataclass(frozen=True, slots=True)
class _Served:
    """A stream, and the task of its handler."""

    stream: ServerStream[Any, Any]
    task: asyncio.Task[None]


def _status_of(error: BaseException, method: Method[Any, Any]) -> tuple[int, str]:
    """Return the code and the text that answer what a handler raised."""
    if isinstance(error, DunnageError):
        return error.code, error.wire_text
    if isinstance(error, asyncio.CancelledError):
        # The connection has ended, or else what the handler waited for was cancelled:
        # then its caller must hear of it.
        return Cancelled.code, Cancelled.suffix
    _log.error("the handler of %s failed", method.full_name, exc_info=error)
    return Unknown.code, f"{type(error).__name__}: {error}"


def _find(services: Services, request: RequestReceived) -> Entry | str:
    """Return the method and its handler, or the text that says what is missing."""
    methods = services.get(request.service)
    if methods is None:
        return f"service {request.service}"
    return methods.get(request.method) or f"method {request.method}"


def _encode(reply: Message | None) -> bytes:
    if reply is None:
        raise Unknown("ttrpc: marshal called with nil")
    return reply.SerializeToString()
