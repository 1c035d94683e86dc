"""Receiving events without a daemon: whoever runs takes turns.

Owns: who receives, and what is refused.
Must not know: tasks; what an event means.

Of all the processes that have an inbox of a namespace open, the one that holds the
log's lock binds the socket and receives; all of them read the log.
When it leaves, or dies, another one takes over within the poll interval; while nobody
is there, shims wait with their events as they do for a daemon that is away.
Polling, because the lock of a process that was killed is given up without a word that
one could wait for, and because it needs no thread.

Invariant (on-disk-before-answer): an event is in the log before its Forward is
    answered, so a shim that was answered may forget it.
Invariant (unlinked-by-its-holder): the socket is made and removed by the holder of the
    lock only, removed before the lock is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING, Final, Self

from dunnage.api import times
from dunnage.api.forward_pb2 import Envelope, ForwardRequest
from dunnage.api.services import EVENTS
from dunnage.bootstrap import identifiers
from dunnage.descriptors import Any as Packed
from dunnage.descriptors import Empty
from dunnage.errors import ConnectionBroken, InvalidArgument, Unavailable
from dunnage.ttrpc.aio.client import Client
from dunnage.ttrpc.aio.server import Context, Server

from .eventlog import Reader, Record, Writer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from types import TracebackType

    from .places import Places

_log: Final = logging.getLogger("dunnage.manager")

_POLL_S: Final = 0.05
_SAY_LIMIT_S: Final = 5.0
_DRAIN_S: Final = 1.0
_BACKLOG: Final = 128


class Inbox:
    """The events of a namespace, for as long as it is open.

    Use it as an async context manager.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._writer: Writer | None = None
        self._server: Server | None = None
        self._turn: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Begin to receive, if nobody else does.

        Raises:
            OSError: the log or the socket cannot be made.
        """
        self._try_to_receive()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop receiving; an event that was read is answered first."""
        if self._turn is not None:
            self._turn.cancel()
        server, writer = self._server, self._writer
        self._server = self._writer = None
        if server is None or writer is None:
            return
        try:
            # First: what finds no socket waits for the next one.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._places.events_socket)
            server.stop_listening()
            await server.drain(timeout_s=_DRAIN_S)
            await server.close()
        finally:
            writer.close()

    @property
    def is_receiving(self) -> bool:
        """Whether it is our turn."""
        return self._writer is not None

    def reader(self) -> Reader:
        """Return a reader of what is still to come."""
        return Reader.at_end(self._places.event_log)

    async def follow(self, reader: Reader) -> AsyncGenerator[Record, None]:
        """Yield the events that ``reader`` has not seen, for ever.

        Cancelling it loses nothing: the reader is where the last batch ended.
        """
        while True:
            for record in reader.read():
                yield record
            await asyncio.sleep(_POLL_S)

    async def wait_for(
        self, reader: Reader, matches: Callable[[Record], bool], *, limit_s: float
    ) -> bool:
        """Wait until the log has such an event; return whether it has.

        Cancelling it stops the wait only.
        """
        try:
            async with asyncio.timeout(limit_s):
                async with contextlib.aclosing(self.follow(reader)) as records:
                    async for record in records:
                        if matches(record):
                            return True
        except TimeoutError:
            pass
        return False

    async def say(self, record: Record) -> None:
        """Put an event of our own into the log, whoever receives.

        Raises:
            OSError: it is our turn, and it cannot be kept.
            Unavailable: it is another's turn, and that takes nothing.
        """
        try:
            async with asyncio.timeout(_SAY_LIMIT_S):
                while self._writer is None:
                    with contextlib.suppress(ConnectionBroken, Unavailable):
                        await self._forward_to_receiver(record)
                        return
                    # It left, or has not begun: perhaps it is our turn next.
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise Unavailable("the receiver of events does not answer") from None
        self._writer.append(record)

    async def _forward_to_receiver(self, record: Record) -> None:
        client = await Client.connect(self._places.events_socket)
        try:
            await client.call(EVENTS.forward, _request(record))
        finally:
            client.close()

    def _try_to_receive(self) -> None:
        """Take our turn, or look again later."""
        self._writer = Writer.maybe_open(self._places.event_log)
        if self._writer is None:
            loop = asyncio.get_running_loop()
            self._turn = loop.call_later(_POLL_S, self._try_again)
            return
        try:
            listener = _listen(self._places.events_socket)
        except OSError:
            self._writer.close()
            self._writer = None
            raise
        self._server = Server()
        self._server.register(EVENTS.forward, self._forward)
        self._server.listen_on(listener)

    def _try_again(self) -> None:
        try:
            self._try_to_receive()
        except OSError:
            # A full disk, say; the others of this namespace fail likewise, and the
            # shims wait.
            _log.exception("cannot receive events")
            loop = asyncio.get_running_loop()
            self._turn = loop.call_later(_POLL_S, self._try_again)

    async def _forward(self, request: ForwardRequest, _: Context) -> Empty:
        record = _checked(request.envelope)
        if self._writer is None:
            raise Unavailable("leaving")
        try:
            self._writer.append(record)
        except OSError as error:
            # Of all codes the one that says: keep it, and try again.
            raise Unavailable(f"the event cannot be kept: {error}") from error
        return Empty()


def _checked(envelope: Envelope) -> Record:
    """Apply the daemon's rules (containerd events/exchange, validateEnvelope)."""
    identifiers.validate("namespace", envelope.namespace)
    topic = envelope.topic
    if not topic.startswith("/"):
        raise InvalidArgument(f"topic {topic!r} must start with '/'")
    for component in topic[1:].split("/"):
        identifiers.validate(f"a component of topic {topic!r}", component)
    timestamp_ns = times.nanoseconds(envelope.timestamp)
    if timestamp_ns is None or not envelope.HasField("timestamp"):
        raise InvalidArgument("the timestamp of an event must be set")
    return Record(
        timestamp_ns=timestamp_ns,
        namespace=envelope.namespace,
        topic=topic,
        type_url=envelope.event.type_url,
        value=envelope.event.value,
    )


def _request(record: Record) -> ForwardRequest:
    event = Packed(type_url=record.type_url, value=record.value)
    return ForwardRequest(
        envelope=Envelope(
            timestamp=times.timestamp(record.timestamp_ns),
            namespace=record.namespace,
            topic=record.topic,
            event=event,
        )
    )


def _listen(path: str) -> socket.socket:
    """Bind the socket; whatever is there is stale, as we hold the lock."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before anybody can connect; the umask would not be ours alone.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
