"""A daemon's event socket that behaves as badly as it is told to.

For whoever writes what publishes events, a shim above all: it hears every Forward, does
with each what the script says, and knows afterwards which repeats were excusable.

::

    async with FakeDaemon(path) as daemon:
        daemon.script = [LOST, refused(Unavailable("later")), taken(late_s=0.3)]
        ...                             # run what publishes to TTRPC_ADDRESS=path
        assert not daemon.inexcusable()
        stream = daemon.stream()        # each event once, in the order taken
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

from dunnage.api.forward_pb2 import ForwardRequest
from dunnage.api.services import EVENTS
from dunnage.errors import DunnageError, Unimplemented
from dunnage.ttrpc.connection import ServerConnection
from dunnage.ttrpc.events import RequestReceived

_READ_BYTES: Final = 64 << 10
_HALF_A_HEADER_BYTES: Final = 5
"""A frame's header has 10 bytes: what is sent of a truncated answer."""


class End(StrEnum):
    """How a Forward ended, as far as the one who sent it can know."""

    TAKEN = "taken"
    """Answered with success: it must never come again."""
    REFUSED = "refused"
    """Answered with an error."""
    UNANSWERED = "unanswered"
    """The connection was closed, by either side, before it was answered."""
    OPEN = "open"
    """Not answered yet, and still connected."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is done with one Forward that was read; see the names below."""

    late_s: float = 0.0
    """How long it is left unanswered first."""
    error: DunnageError | None = None
    sent_bytes: int | None = None
    """How much of the answer is sent before the connection is closed; None for all of
    it, and the connection is kept."""
    for_ever: bool = False
    """It is not answered before `FakeDaemon.wake`, and the connection is kept."""


def taken(late_s: float = 0.0) -> Answer:
    """Return the answer of success, given after ``late_s``."""
    return Answer(late_s)


def refused(error: DunnageError, late_s: float = 0.0) -> Answer:
    """Return the answer of an error."""
    return Answer(late_s, error)


TAKEN: Final = taken()
LOST: Final = Answer(sent_bytes=0)
"""It was read, perhaps applied; the reply is lost with the connection."""
TRUNCATED: Final = Answer(sent_bytes=_HALF_A_HEADER_BYTES)
"""The connection is closed in the midst of the reply."""
HANGING: Final = Answer(for_ever=True)


@dataclass(slots=True)
class Heard:
    """One Forward that was read."""

    envelope: bytes
    """As it came; a repeat has the same bytes."""
    metadata: dict[str, str]
    end: End = End.OPEN
    is_excused: bool = True
    """It is no repeat, or one that had to be."""


@dataclass
class FakeDaemon:
    """Listens at ``path`` while the context is open, or between `start` and `stop`.

    Attributes:
        script: what is done with the Forwards to come, each by one entry.
        then: what is done with them when the script is over.
        heard: every Forward so far, also those of earlier starts.
        connections: how many connections were accepted so far.
    """

    path: str
    script: list[Answer] = field(default_factory=list)
    then: Answer = TAKEN
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener: socket.socket | None = None
        self._peers: set[_Peer] = set()
        self._last: dict[bytes, Heard] = {}

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, in the place of whoever has left a socket there.

        Raises:
            OSError: the socket cannot be made.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.path)
            listener.listen()
            listener.settimeout(0)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        loop = asyncio.get_running_loop()
        loop.add_reader(listener.fileno(), self._accept, listener)

    def stop(self) -> None:
        """Go away as one that is killed: the socket's file stays. Idempotent."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        self.hang_up()

    def hang_up(self) -> None:
        """Close every connection; go on listening."""
        for peer in list(self._peers):
            peer.close()

    def wake(self) -> None:
        """Answer everything that is open with success."""
        for peer in list(self._peers):
            peer.wake()

    def inexcusable(self) -> list[Heard]:
        """Return the repeats that nothing excuses.

        A repeat is excused by an error answer, and by a Forward that was unanswered
        when either side closed the connection.
        """
        return [heard for heard in self.heard if not heard.is_excused]

    def stream(self) -> list[bytes]:
        """Return the envelopes in the order heard, less the excused repeats.

        One whose reply was lost counts from its first hearing, as a daemon may have
        applied it; one that was refused counts when it is heard otherwise.
        """
        stream = []
        counted = set()
        for heard in self.heard:
            is_repeat = heard.envelope in counted and heard.is_excused
            if heard.end is not End.REFUSED and not is_repeat:
                stream.append(heard.envelope)
                counted.add(heard.envelope)
        return stream

    def hear(self, envelope: bytes, metadata: dict[str, str]) -> tuple[Heard, Answer]:
        """Note a Forward that was read; return the note and what to do."""
        before = self._last.get(envelope)
        if before and before.end is End.OPEN:
            # Its connection may be closed, and we have not looked yet.
            for peer in list(self._peers):
                peer.look()
        excused = not before or before.end in {End.REFUSED, End.UNANSWERED}
        heard = Heard(envelope, metadata, is_excused=excused)
        self.heard.append(heard)
        self._last[envelope] = heard
        return heard, self.script.pop(0) if self.script else self.then

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            sock, _ = listener.accept()
            self.connections += 1
            self._peers.add(_Peer(self, sock, self._peers.discard))


class _Peer:
    """One connection: reads requests, and sends what the script says."""

    def __init__(
        self,
        daemon: FakeDaemon,
        sock: socket.socket,
        on_end: Callable[[_Peer], None],
    ) -> None:
        self._daemon = daemon
        self._sock = sock
        self._on_end = on_end
        self._connection = ServerConnection()
        self._open: dict[int, Heard] = {}
        self._loop = asyncio.get_running_loop()
        sock.settimeout(0)
        self._loop.add_reader(sock.fileno(), self._read)

    def close(self) -> None:
        """Close the connection: what is open on it stays unanswered."""
        if self._sock.fileno() == -1:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for heard in self._open.values():
            heard.end = End.UNANSWERED
        self._on_end(self)

    def wake(self) -> None:
        """Answer what is open with success."""
        for stream_id, heard in list(self._open.items()):
            self._answer(stream_id, heard, TAKEN)

    def look(self) -> None:
        """Notice now that the other side has closed the connection."""
        with contextlib.suppress(OSError):
            if not self._sock.recv(1, socket.MSG_PEEK):
                self.close()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for event in self._connection.receive_data(data):
            if isinstance(event, RequestReceived) and self._sock.fileno() != -1:
                self._hear(event)

    def _hear(self, request: RequestReceived) -> None:
        if (request.service, request.method) != (
            EVENTS.forward.service,
            EVENTS.forward.name,
        ):
            error = Unimplemented(f"/{request.service}/{request.method}")
            self._answer(request.stream_id, None, refused(error))
            return
        envelope = ForwardRequest.FromString(request.payload).envelope
        heard, answer = self._daemon.hear(
            envelope.SerializeToString(), dict(request.metadata)
        )
        self._open[request.stream_id] = heard
        if answer.for_ever:
            return
        if answer.late_s:
            self._loop.call_later(
                answer.late_s, self._answer, request.stream_id, heard, answer
            )
        else:
            self._answer(request.stream_id, heard, answer)

    def _answer(self, stream_id: int, heard: Heard | None, answer: Answer) -> None:
        if self._sock.fileno() == -1 or (heard and heard.end is not End.OPEN):
            return  # closed, or woken, while it was late
        if answer.error:
            error = answer.error
            self._connection.send_error(stream_id, error.code, error.message)
        else:
            self._connection.send_response(stream_id, b"")
        data = self._connection.data_to_send()
        self._connection.data_sent(len(data))
        # The peer may be gone; small answers to few requests fit into any socket.
        with contextlib.suppress(OSError):
            self._sock.send(data[: answer.sent_bytes])
        if answer.sent_bytes is not None:
            self.close()
        elif heard is not None:
            heard.end = End.REFUSED if answer.error else End.TAKEN
            self._open.pop(stream_id)
