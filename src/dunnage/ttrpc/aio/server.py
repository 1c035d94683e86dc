"""The called end: accepts connections and runs a handler for each request.

Owns the table of methods, the listening socket, the connections and the tasks of the
handlers.
Must not know: how bytes are moved, frames.

Invariant (reader-never-waits): a handler runs as a task of its own; requests are read
while it runs, and replies go out in the order in which handlers end.
Invariant (no-orphan-handler): when a connection ends, the handlers that run for it are
cancelled; what must outlive its request shields itself.
Invariant (queued-before-return): a reply is queued in the step in which its handler
returns, so what the handler wakes up last finds it queued and can `Server.drain`.
Invariant (who-speaks-stays): for want of room only a connection is closed that has not
sent a whole request yet, the oldest such first, or the one that just came.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from dataclasses import dataclass, field
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

from .link import Link
from .streams import ServerStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from dunnage.ttrpc.services import Message, Method, Req, Resp

_log: Final = logging.getLogger("dunnage.ttrpc")

# Output that a slow client has not taken; beyond it, nothing more is read from it.
_QUEUE_LIMIT_BYTES: Final = 1 << 20

# How long to leave callers in the backlog when there are no descriptors for them.
_ACCEPT_PAUSE_S: Final = 0.1
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_UCRED: Final = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as the kernel saw it at that moment."""

    pid: int = 0
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler may want to know about its call.

    ``metadata`` has lower-case keys; of a key that came several times, the first value.
    ``deadline`` is a time of the running loop's clock, after which nobody waits for the
    reply any more; None if the caller waits for ever.
    A handler is not cancelled for it; its stream, if it has one, fails when it is used.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    peer: Peer = Peer()


_Handler: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"
_Entry: TypeAlias = "tuple[Method[Any, Any], _Handler]"
_Services: TypeAlias = "dict[str, dict[str, _Entry]]"


class Server:
    """Serves the registered methods on any number of connections.

    Args:
        check_peer: Close a connection without a word unless the peer's effective user
            and group are our own.
        max_connections: How many there may be at a time; None: as many as there are
            descriptors.
    """

    def __init__(
        self, *, check_peer: bool = True, max_connections: int | None = None
    ) -> None:
        self._check_peer = check_peer
        self._max_connections = max_connections
        self._services: _Services = {}
        self._listener: socket.socket | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._sessions: set[_Session] = set()
        # Those of them that have sent no whole request yet, the oldest first.
        self._silent: dict[_Session, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_since = 0.0

    def register(
        self,
        method: Method[Req, Resp],
        handler: Callable[[Req, Context], Awaitable[Resp]],
    ) -> None:
        """Have ``handler`` answer a method.

        What it raises is the answer, too: a `DunnageError` goes out with its code and
        text, anything else is logged and answered as unknown (2).
        """
        if method.kind is not Kind.UNARY:
            raise LocalProtocolError(f"{method.full_name} is for register_stream()")
        self._register(method, handler)

    def register_stream(
        self,
        method: Method[Req, Resp],
        handler: Callable[[ServerStream[Req, Resp], Context], Awaitable[Resp | None]],
    ) -> None:
        """Have ``handler`` answer a method of which one side, or both, is a stream.

        It returns the reply where the client alone streams, else None: the end.
        Messages that it has not received by then are dropped.
        It is cancelled when its stream fails: the connection has ended, the peer broke
        a rule, or the handler left more unread than it may.
        """
        if method.kind is Kind.UNARY:
            raise LocalProtocolError(f"{method.full_name} is for register()")
        self._register(method, handler)

    def _register(self, method: Method[Any, Any], handler: _Handler) -> None:
        methods = self._services.setdefault(method.service, {})
        if method.name in methods:
            raise LocalProtocolError(f"{method.full_name} has a handler already")
        methods[method.name] = (method, handler)

    def listen_on(self, listener: socket.socket) -> None:
        """Accept connections from a listening socket, which the server owns now."""
        if self._listener is not None:
            raise LocalProtocolError("the server is listening already")
        listener.settimeout(0)
        self._listener = listener
        self._idle_since = asyncio.get_running_loop().time()
        self._watch_listener()

    def stop_listening(self) -> None:
        """Close the listening socket; connections live on.  Idempotent."""
        if self._listener is None:
            return
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        else:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        self._listener = None

    def serve(self, sock: socket.socket) -> None:
        """Serve a connected socket, which the server owns from now on."""
        peer = _peer_of(sock)
        if self._check_peer and not _is_own(peer):
            _log.warning("refused a connection of %s", peer)
            sock.close()
            return
        if self._is_full and not self._make_room():
            _log.warning("refused a connection of %s: there are too many", peer)
            sock.close()
            return
        session = _Session(
            sock, peer, self._services, self._tasks, self._silent, self._ended
        )
        self._sessions.add(session)
        self._silent[session] = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._sessions)

    @property
    def idle_since(self) -> float | None:
        """The loop's time since which no connection is open; None if one is."""
        return None if self._sessions else self._idle_since

    async def drain(self, *, timeout_s: float) -> None:
        """Wait until the replies given so far are written, at most ``timeout_s``.

        Cancelling it is harmless.
        """
        waits = [session.link.drained() for session in self._sessions]
        if waits:
            await asyncio.wait(waits, timeout=timeout_s)

    async def shutdown(self, *, timeout_s: float) -> None:
        """Let the requests in flight be answered, at most ``timeout_s``, then close.

        New connections and requests are refused meanwhile, the latter as unavailable.
        Cancelling it leaves what is not answered to `close`.
        """
        self.stop_listening()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        for session in self._sessions:
            session.is_leaving = True
        if others := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=timeout_s)
        await self.drain(timeout_s=max(0.0, deadline - loop.time()))
        await self.close()

    async def close(self) -> None:
        """Close all sockets, cancel the handlers, and wait for them.

        Replies that are not written yet are lost: see `drain`.
        Cancelling it stops the wait only.
        """
        self.stop_listening()
        for session in list(self._sessions):
            session.link.close()
        # No limit: how long a handler takes to end is its own affair.
        while others := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(others)

    @property
    def _is_full(self) -> bool:
        limit = self._max_connections
        return limit is not None and len(self._sessions) >= limit

    def _make_room(self) -> bool:
        """Close a connection that has said nothing; return whether there was one."""
        for session in self._silent:
            _log.warning("closed a silent connection of %s for another", session.peer)
            session.link.close()
            return True
        return False

    def _ended(self, session: _Session) -> None:
        self._sessions.discard(session)
        self._silent.pop(session, None)
        self._idle_since = asyncio.get_running_loop().time()

    def _watch_listener(self) -> None:
        assert self._listener is not None
        self._resume = None
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # the caller went away, or another process took it
        except OSError as error:
            if error.errno not in _NO_ROOM:
                _log.exception("stopped listening")
                self.stop_listening()
                return
            if self._make_room():
                return  # the caller is still in the backlog: we are called again
            # The caller stays in the backlog, which stays readable: look away for a
            # while rather than spin.
            _log.warning("cannot accept for now: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener.fileno())
            self._resume = loop.call_later(_ACCEPT_PAUSE_S, self._watch_listener)
            return
        self.serve(sock)


class _Session:
    """One connection that is being served.

    Args:
        sock: The session owns it from now on.
        peer: Who is at the other end.
        services: The table of methods.
        tasks: Where the server keeps the tasks of all handlers.
        silent: Where it keeps the sessions that have had no request yet.
        on_end: Called once, when the connection has ended.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        services: _Services,
        tasks: set[asyncio.Task[None]],
        silent: dict[_Session, None],
        on_end: Callable[[_Session], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.peer = peer
        self._silent = silent
        self._services = services
        self._tasks = tasks
        self._on_end = on_end
        self._running: set[asyncio.Task[None]] = set()
        self._streams: dict[int, _Served] = {}
        self._connection = ServerConnection()
        self.is_leaving = False
        self.link = Link(
            sock,
            self._connection,
            on_event=self._on_event,
            on_end=self._end,
            queue_limit_bytes=_QUEUE_LIMIT_BYTES,
        )

    def _on_event(self, event: RequestReceived | StreamReadable | CallFailed) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, CallFailed):
            self._drop(event.stream_id, event.error)
        elif served := self._streams.get(event.stream_id):
            served.stream.wake()

    def _begin(self, request: RequestReceived) -> None:
        stream_id = request.stream_id
        self._silent.pop(self, None)
        if self.is_leaving:
            text = "the server is shutting down"
            self._connection.send_error(stream_id, Unavailable.code, text)
            return
        found = _find(self._services, request)
        if isinstance(found, str):
            self._connection.send_error(stream_id, Unimplemented.code, found)
            return
        method, handler = found
        context = self._context(request)
        if method.kind is Kind.UNARY:
            if request.is_open:
                self._connection.close_input(stream_id)
            _ = self._run(self._answer(request, method, handler, context))
            return
        stream: ServerStream[Any, Any] = ServerStream(
            self.link, self._connection, request, method, context.deadline, self._fail
        )
        work = self._answer_stream(stream, method, handler, context)
        self._streams[stream_id] = _Served(stream, self._run(work))

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        for owner in (self._running, self._tasks):
            owner.add(task)
            task.add_done_callback(owner.discard)
        return task

    async def _answer(
        self,
        request: RequestReceived,
        method: Method[Any, Any],
        handler: _Handler,
        context: Context,
    ) -> None:
        stream_id = request.stream_id
        try:
            message = method.request.FromString(request.payload)
        except Exception as error:  # noqa: BLE001 - codecs raise what they like
            text = f"ttrpc: error unmarshalling payload: {error}"
            self._refuse(stream_id, Internal.code, text)
            return
        try:
            payload = _encode(await handler(message, context))
        except (Exception, asyncio.CancelledError) as error:
            self._refuse(stream_id, *_status_of(error, method))
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            if self.link.error is None:
                self._connection.send_response(stream_id, payload)
                self.link.flush()

    async def _answer_stream(
        self,
        stream: ServerStream[Any, Any],
        method: Method[Any, Any],
        handler: _Handler,
        context: Context,
    ) -> None:
        stream_id = stream.stream_id
        try:
            reply = await handler(stream, context)
            payload = b"" if method.kind.server_streams else _encode(reply)
        except (Exception, asyncio.CancelledError) as error:
            # Dropped means answered: the id may be another call's by now.
            if self._forget(stream):
                self._refuse(stream_id, *_status_of(error, method))
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

    def _refuse(self, stream_id: int, code: int, text: str) -> None:
        if self.link.error is None:
            self._connection.send_error(stream_id, code, text)
            self.link.flush()

    def _context(self, request: RequestReceived) -> Context:
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


def _find(services: _Services, request: RequestReceived) -> _Entry | str:
    """Return the method and its handler, or the text that says what is missing."""
    methods = services.get(request.service)
    if methods is None:
        return f"service {request.service}"
    return methods.get(request.method) or f"method {request.method}"


def _encode(reply: Message | None) -> bytes:
    if reply is None:
        raise Unknown("ttrpc: marshal called with nil")
    return reply.SerializeToString()


def _peer_of(sock: socket.socket) -> Peer:
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(data))


def _is_own(peer: Peer) -> bool:
    return (peer.uid, peer.gid) == (os.geteuid(), os.getegid())
