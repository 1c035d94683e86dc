"""A connected socket and the sans-IO connection that speaks over it.

Owns the socket: reads it into the connection, writes the connection's output, and says
once when it is over.
Must not know: which end it is, calls, handlers.

It asks of the loop only ``add_reader``, ``add_writer``, ``call_soon`` and futures, and
keeps no bytes of its own: what was read and not answered, and what was not written yet,
is in the connection and can be handed over with it.

Invariant (ends-once): ``on_end`` is called once, and ``closed`` is done once, whoever
ended the connection; nothing is read or written after that.
Invariant (nothing-read-is-lost): when writing fails, what the peer had sent before it
went is still delivered before the end.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from dunnage.errors import ConnectionBroken, ConnectionClosed, DunnageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# One read takes at most this much; the loop comes back for more.
_READ_BYTES: Final = 64 << 10

E_co = TypeVar("E_co", covariant=True)
E = TypeVar("E")


class SansIO(Protocol[E_co]):
    """What a link needs of a connection."""

    def receive_data(self, data: bytes) -> Sequence[E_co]:
        """Take bytes that were read; return what they mean."""
        ...

    def receive_eof(self) -> None:
        """Note that nothing more will be read; raise if it comes too early."""
        ...

    @property
    def queued_bytes(self) -> int:
        """How much is still to be written."""
        ...

    def data_to_send(self) -> bytes:
        """Return the head of what is to be written."""
        ...

    def data_sent(self, count: int) -> None:
        """Take that much off the head."""
        ...


class Link(Generic[E]):
    """Moves bytes between a socket and a connection.

    Args:
        sock: Connected; the link owns it from now on.
        connection: Queue output there, then call `flush`.
        on_event: Called with each event, in order.
        on_end: Called once; with what ended the connection.
        on_read: Called after the events of each read, while the connection lives.
        queue_limit_bytes: Read nothing more while this much waits to be written.
            None for an end that must go on reading: were both ends to stop, neither
            would ever start again.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: SansIO[E],
        *,
        on_event: Callable[[E], None],
        on_end: Callable[[DunnageError], None],
        on_read: Callable[[], None] | None = None,
        queue_limit_bytes: int | None = None,
    ) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._fd = sock.fileno()
        self._connection = connection
        self._on_event = on_event
        self._on_end = on_end
        self._on_read = on_read
        self._queue_limit_bytes = queue_limit_bytes
        self._loop = asyncio.get_running_loop()
        self._is_reading = False
        self._is_writing = False
        self._holds = 0
        self._write_error: OSError | None = None
        self._drained: list[asyncio.Future[None]] = []
        self.error: DunnageError | None = None
        """What ended the connection; None while it lives."""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._watch_input()

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once it is closed."""
        return self._sock.fileno()

    def flush(self) -> None:
        """Write what the connection has queued: now what the socket takes, then later.

        Never raises; a failure ends the link soon.
        """
        if self.error is not None or self._write_error is not None:
            return
        connection = self._connection
        try:
            while connection.queued_bytes:
                data = connection.data_to_send()
                connection.data_sent(self._sock.send(data, socket.MSG_NOSIGNAL))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._write_error = error
            # Not now: the caller is in the middle of something.
            self._loop.call_soon(self._read_what_is_left)
        self._watch_output()
        self._watch_input()

    def drained(self) -> asyncio.Future[None]:
        """Return a future that is done when nothing waits to be written, or at the end.

        Cancelling it is harmless.
        """
        future = self._loop.create_future()
        if self.error is not None or not self._connection.queued_bytes:
            future.set_result(None)
        else:
            self._drained.append(future)
        return future

    def hold(self) -> None:
        """Read nothing more, until `release` was called as often."""
        self._holds += 1
        self._watch_input()

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        self._watch_input()

    def close(self) -> None:
        """End the connection now; what was not written is lost."""
        self._end(ConnectionClosed("the connection was closed"))

    def _watch_output(self) -> None:
        is_wanted = self._connection.queued_bytes > 0 and self._write_error is None
        if is_wanted and not self._is_writing:
            self._loop.add_writer(self._fd, self.flush)
        elif self._is_writing and not is_wanted:
            self._loop.remove_writer(self._fd)
        self._is_writing = is_wanted
        if not is_wanted:
            self._wake_drained()

    def _watch_input(self) -> None:
        if self.error is not None:
            return
        limit = self._queue_limit_bytes
        is_wanted = not self._holds and (
            limit is None or self._connection.queued_bytes < limit
        )
        if is_wanted and not self._is_reading:
            self._loop.add_reader(self._fd, self._read)
        elif self._is_reading and not is_wanted:
            self._loop.remove_reader(self._fd)
        self._is_reading = is_wanted

    def _read(self) -> None:
        # One write for all that was answered at once.
        if self._maybe_read() and self._connection.queued_bytes:
            self.flush()

    def _maybe_read(self) -> bool:
        """Read once; return whether there may be more."""
        try:
            data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._break(error)
            return False
        if not data:
            self._receive_eof()
            return False
        for event in self._connection.receive_data(data):
            self._on_event(event)
            if self.error is not None:
                return False
        if self._on_read is not None:
            self._on_read()
        return self.error is None

    def _read_what_is_left(self) -> None:
        while self.error is None and self._maybe_read():
            pass
        if self.error is None:
            self._break(self._write_error)

    def _receive_eof(self) -> None:
        try:
            self._connection.receive_eof()
        except DunnageError as error:
            self._end(error)
        else:
            self._break(self._write_error)

    def _break(self, cause: OSError | None) -> None:
        why = "the peer closed the connection" if cause is None else str(cause)
        error = ConnectionBroken(why)
        error.__cause__ = cause
        self._end(error)

    def _end(self, error: DunnageError) -> None:
        if self.error is not None:
            return
        self.error = error
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._sock.close()
        self._wake_drained()
        on_end = self._on_end
        # Our owner holds us: let go of it, so that neither waits for the collector.
        self._on_event = self._on_end = _ignore
        self._on_read = None
        on_end(error)
        if not self.closed.done():
            self.closed.set_result(None)

    def _wake_drained(self) -> None:
        if not self._drained:
            return
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _ignore(_: object) -> None:
    pass
