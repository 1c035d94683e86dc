"""The called end: accepts connections and runs a handler for each request.

Owns the table of methods, the listening socket, the connections (`session`: one of
them; `room`: which to keep) and the tasks of the handlers.
Must not know: how bytes are moved, frames.

What a session and a room promise is said there; `Server.close` leaves no handler.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from dunnage.errors import LocalProtocolError
from dunnage.ttrpc.services import Kind

from .context import Context, Peer
from .room import Room
from .session import Handler, Services, Session
from .streams import ServerStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dunnage.ttrpc.services import Method, Req, Resp

__all__ = ["Context", "Peer", "Server"]

_log: Final = logging.getLogger("dunnage.ttrpc")

# How long to leave callers in the backlog when there are no descriptors for them.
_ACCEPT_PAUSE_S: Final = 0.1
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_UCRED: Final = struct.Struct("iII")


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
        self._services: Services = {}
        self._listener: socket.socket | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._sessions: set[Session] = set()
        self._room = Room()
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

    def register_sync(
        self, method: Method[Req, Resp], handler: Callable[[Req, Context], Resp]
    ) -> None:
        """Have ``handler`` answer a method at once; as `register`, but without a task.

        It runs in the step in which the request is read, so before any other handler
        that came with the same read, and it must not block.
        """
        if method.kind is not Kind.UNARY:
            raise LocalProtocolError(f"{method.full_name} is for register_stream()")
        self._register(method, handler, is_sync=True)

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

    def _register(
        self, method: Method[Any, Any], handler: Handler, *, is_sync: bool = False
    ) -> None:
        methods = self._services.setdefault(method.service, {})
        if method.name in methods:
            raise LocalProtocolError(f"{method.full_name} has a handler already")
        methods[method.name] = (method, handler, is_sync)

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
        if self._is_full and not self._room.make():
            _log.warning("refused a connection of %s: there are too many", peer)
            sock.close()
            return
        session = Session(
            sock, peer, self._services, self._tasks, self._room, self._ended
        )
        self._sessions.add(session)
        self._room.enter(session)

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

    def _ended(self, session: Session) -> None:
        self._sessions.discard(session)
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
            if self._room.make():
                return  # the caller is still in the backlog: we are called again
            # The caller stays in the backlog, which stays readable: look away for a
            # while rather than spin.
            _log.warning("cannot accept for now: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener.fileno())
            self._resume = loop.call_later(_ACCEPT_PAUSE_S, self._watch_listener)
            return
        self.serve(sock)


def _peer_of(sock: socket.socket) -> Peer:
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(data))


def _is_own(peer: Peer) -> bool:
    return (peer.uid, peer.gid) == (os.geteuid(), os.getegid())
