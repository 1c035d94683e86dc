"""One call that is a stream, as an object to receive from and to send on; both ends.

Owns the waiting: for a message, for room; and what happens when nobody takes messages.
Must not know: how bytes are moved, frames.

ttrpc has no window by which a stream could ask its peer to pause.
Our rule is that of the Go implementation (ttrpc 1.2.9), counted in bytes.
When more than 256 KiB are unread on a stream, its connection is not read any more.
As soon as some of it is taken, reading goes on.
After a second without that, this one stream fails with `ResourceExhausted`, and reading
goes on, too.
So a peer is held back by a slow reader, and a reader that does not read at all delays
the other calls of its connection by one second, once.

Invariant (bounded-stream): a stream holds its limit, and one read or one message more.
Invariant (no-stall): no stream keeps its connection from being read for longer than
`PATIENCE_S` on end.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar

from dunnage.errors import (
    ConnectionBroken,
    ConnectionClosed,
    DeadlineExceeded,
    DunnageError,
    EndOfStream,
    Internal,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceExhausted,
)
from dunnage.ttrpc.services import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from dunnage.ttrpc.connection import ClientConnection
    from dunnage.ttrpc.events import RequestReceived
    from dunnage.ttrpc.services import Method

    from .link import Link

PATIENCE_S: Final = 1.0
"""How long a full stream may keep its connection from being read."""

_SEND_LIMIT_BYTES: Final = 64 << 10
"""Output that waits to be written; beyond it, whoever sends on a stream waits, too."""

_STREAM_FULL: Final = "ttrpc: stream buffer full"  # the Go implementation's words

In = TypeVar("In", bound=Message)
Out = TypeVar("Out", bound=Message)


class _Core(Protocol):
    """What both kinds of connection offer to a stream."""

    def take(self, stream_id: int) -> bytes | None: ...

    def is_full(self, stream_id: int) -> bool: ...

    def send_message(self, stream_id: int, payload: bytes) -> None: ...

    @property
    def queued_bytes(self) -> int: ...


class Stream(Generic[In, Out]):
    """What both ends of a stream share: receive messages, send messages.

    Args:
        link: What moves the bytes.
        core: Where the stream is, by its id.
        stream_id: That id.
        incoming: The type of the messages that are received.
        deadline: A time of the loop's clock, after which every wait fails.
    """

    def __init__(
        self,
        link: Link[Any],
        core: _Core,
        stream_id: int,
        incoming: type[In],
        deadline: float | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._core = core
        self._incoming = incoming
        self._deadline = deadline
        self._waiting: list[asyncio.Future[None]] = []
        self._hold: asyncio.TimerHandle | None = None
        self._over: DunnageError | None = None
        self.stream_id: Final = stream_id

    async def receive(self) -> In:
        """Wait for the next message.

        Cancelling it loses no message.

        Raises:
            EndOfStream: The peer sends no more.
            DeadlineExceeded: The time for the whole call is over.
            DunnageError: What the peer answered instead.
            ConnectionBroken: The connection ended first.
        """
        while True:
            self._expect_time()
            payload = self._take()
            if payload is not None:
                return self._decode(payload)
            if self._link.error is not None:
                raise same(self._link.error)
            waiting: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiting)
            await self._wait(waiting)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> In:
        try:
            return await self.receive()
        except EndOfStream:
            raise StopAsyncIteration from None

    async def send(self, message: Out) -> None:
        """Send a message, as soon as there is room for it.

        Cancelling it while it waits sends nothing.

        Raises:
            EndOfStream: The peer has ended the whole stream, so it takes no more.
            DeadlineExceeded: The time for the whole call is over.
            DunnageError: What the peer answered instead.
            ConnectionBroken: The connection has ended.
            ResourceExhausted: The message is too long.
        """
        payload = message.SerializeToString()
        self._expect_usable()
        while self._core.queued_bytes > _SEND_LIMIT_BYTES:
            await self._wait(self._link.drained())
            self._expect_usable()
        self._core.send_message(self.stream_id, payload)
        self._link.flush()

    def wake(self) -> None:
        """Look again: something has come, or the connection is over."""
        if self._link.error is not None or not self._core.is_full(self.stream_id):
            self._release()
        elif self._hold is None:
            self._link.hold()
            self._hold = self._loop.call_later(PATIENCE_S, self._overflow)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def close(self, error: DunnageError) -> None:
        """Let go of the connection; from now on every use raises ``error``."""
        if self._over is None:
            self._over = error
            self.wake()
            self._release()

    def _overflow(self) -> None:
        self._release()
        self._fail(ResourceExhausted(_STREAM_FULL))

    def _fail(self, error: DunnageError) -> None:
        raise NotImplementedError

    def _decode(self, payload: bytes) -> In:
        return self._incoming.FromString(payload)

    def _take(self) -> bytes | None:
        payload = self._core.take(self.stream_id)
        if self._hold is not None and not self._core.is_full(self.stream_id):
            self._release()
        return payload

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
            self._link.release()

    def _expect_time(self) -> None:
        if self._over is not None:
            raise type(self._over)(self._over.message)
        if self._deadline is not None and self._loop.time() >= self._deadline:
            raise DeadlineExceeded("the time for the stream is over")

    def _expect_usable(self) -> None:
        self._expect_time()
        if self._link.error is not None:
            raise same(self._link.error)

    async def _wait(self, future: asyncio.Future[None]) -> None:
        if self._deadline is None:
            await future
            return
        left_s = self._deadline - self._loop.time()
        timer = self._loop.call_later(left_s, _set, future)
        try:
            await future
        finally:
            timer.cancel()


class ClientStream(Stream[In, Out]):
    """A stream that we called; to be used as a context manager.

    Leaving the context forgets the stream: what still comes is dropped.
    The peer is not told, the protocol has no way to: give the call a time-out, which is
    told, or agree on a message that means it.
    """

    def __init__(
        self,
        link: Link[Any],
        core: ClientConnection,
        stream_id: int,
        method: Method[Out, In],
        deadline: float | None,
        on_close: Callable[[int], None],
    ) -> None:
        super().__init__(link, core, stream_id, method.response, deadline)
        self._connection = core
        self._method = method
        self._on_close = on_close

    def end(self) -> None:
        """Say that no more messages come from us; the peer's may go on."""
        self._expect_usable()
        self._connection.end_messages(self.stream_id)
        self._link.flush()

    async def reply(self) -> In:
        """Say that no more messages come from us, and wait for the one reply."""
        self.end()
        try:
            return await self.receive()
        except EndOfStream as error:
            text = f"{self._method.full_name}: ended without a reply"
            raise RemoteProtocolError(text) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(LocalProtocolError("this stream was left"))
        self._connection.abandon(self.stream_id)
        self._on_close(self.stream_id)

    def _fail(self, error: DunnageError) -> None:
        self._connection.give_up(self.stream_id, error)
        self.wake()

    def _decode(self, payload: bytes) -> In:
        try:
            return super()._decode(payload)
        except Exception as error:
            text = f"{self._method.full_name}: a message cannot be read: {error}"
            raise RemoteProtocolError(text) from error


class ServerStream(Stream[In, Out]):
    """A stream that we serve: what its handler is given.

    The first message to receive may have come with the request itself.

    Args:
        on_fail: Called when the stream has to end with an error, unasked.
    """

    def __init__(
        self,
        link: Link[Any],
        core: _Core,
        request: RequestReceived,
        method: Method[In, Out],
        deadline: float | None,
        on_fail: Callable[[int, DunnageError], None],
    ) -> None:
        super().__init__(link, core, request.stream_id, method.request, deadline)
        self._method = method
        self._on_fail = on_fail
        # No payload and an empty message look the same; so the method decides.
        has_first = bool(request.payload) or not method.kind.client_streams
        self._first = request.payload if has_first else None

    async def send(self, message: Out) -> None:  # noqa: D102 - as in Stream
        if not self._method.kind.server_streams:
            raise LocalProtocolError(f"{self._method.full_name}: return the one reply")
        await super().send(message)

    def _fail(self, error: DunnageError) -> None:
        self._on_fail(self.stream_id, error)

    def _take(self) -> bytes | None:
        first, self._first = self._first, None
        return super()._take() if first is None else first

    def _decode(self, payload: bytes) -> In:
        try:
            return super()._decode(payload)
        except Exception as error:
            text = f"ttrpc: error unmarshalling payload: {error}"
            raise Internal(text) from error


def same(error: DunnageError) -> DunnageError:
    """Return the error anew: each call that fails has a traceback of its own."""
    kind = ConnectionClosed if isinstance(error, ConnectionClosed) else ConnectionBroken
    new = kind(error.message)
    new.__cause__ = error.__cause__ or error
    return new


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
