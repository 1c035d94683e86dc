"""The end that calls: requests out; responses, errors and messages in.

Must not know: who waits for an answer, and for how long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from google.protobuf.message import DecodeError

from dunnage.errors import (
    DunnageError,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceExhausted,
    from_status,
)
from dunnage.ttrpc import wire_pb2
from dunnage.ttrpc.events import (
    CallFailed,
    RequestReceived,
    ResponseReceived,
    StreamReadable,
    encode_request,
)
from dunnage.ttrpc.frames import MAX_DATA_BYTES, AnyFrame, FrameType, OversizedFrame
from dunnage.ttrpc.services import Kind
from dunnage.ttrpc.streams import Incoming

from .base import (
    CLOSED,
    LAST,
    OPEN,
    Connection,
    damage_as_data_loss,
    feed,
    too_long,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

_MAX_STREAM_ID: Final = 0xFFFF_FFFF


class ClientConnection(Connection):
    """The end that calls.

    Every unary `send_request` is followed by one event with its stream id, unless it
    is abandoned or the connection ends.
    Any other is followed by any number of `StreamReadable`, until `take` raises the
    end; `abandon` it then.
    """

    def __init__(self) -> None:
        super().__init__()
        self._in_flight: set[int] = set()
        # The streams on which we may say more, and those that a single message answers.
        self._sending: set[int] = set()
        self._single: set[int] = set()
        self._next_id = 1

    @property
    def in_flight(self) -> AbstractSet[int]:
        """The stream ids of the calls that have no answer yet."""
        return frozenset(self._in_flight)

    def send_request(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout_ns: int = 0,
        metadata: Iterable[tuple[str, str]] = (),
        kind: Kind = Kind.UNARY,
    ) -> int:
        """Call a method; return the stream id that its answer will have.

        Where the client streams, the payload is no message unless it has bytes.

        Raises:
            ResourceExhausted: The request is too long, or all ids are used up; nothing
                was queued.
        """
        self._expect_open()
        stream_id = self._next_id
        request = RequestReceived(
            stream_id, service, method, payload, timeout_ns, tuple(metadata)
        )
        try:
            data = encode_request(request)
        except (TypeError, ValueError) as error:
            raise LocalProtocolError(f"not a request: {error}") from error
        if len(data) > MAX_DATA_BYTES:
            raise too_long(len(data))
        if stream_id > _MAX_STREAM_ID:
            raise ResourceExhausted("this connection has used up its stream ids")
        self._next_id += 2
        self._in_flight.add(stream_id)
        flags = 0 if kind is Kind.UNARY else self._open(stream_id, kind)
        self._queue(stream_id, FrameType.REQUEST, data, flags)
        return stream_id

    def send_message(self, stream_id: int, payload: bytes) -> None:
        """Send one message of a stream of requests.

        Raises:
            EndOfStream: The peer has ended the whole stream; what it said is to be
                taken.
            DunnageError: What ended the stream before its time.
            ResourceExhausted: The message is too long; nothing was queued.
        """
        self._expect_sending(stream_id)
        self._streams[stream_id].expect_open()
        self._queue_message(stream_id, payload)

    def end_messages(self, stream_id: int) -> None:
        """Say that no more requests come on a stream."""
        self._expect_sending(stream_id)
        self._sending.discard(stream_id)
        if not self._streams[stream_id].is_ended:
            # Never together with a message: the Go server refuses that (ttrpc 1.2).
            self._queue(stream_id, FrameType.DATA, b"", LAST)

    def give_up(self, stream_id: int, error: DunnageError) -> None:
        """Take nothing more on a stream; ``error`` is what it ends with."""
        incoming = self._streams.get(stream_id)
        if incoming is not None:
            self._end(stream_id, incoming, error)

    def abandon(self, stream_id: int) -> None:
        """Forget a call: an answer that still comes is dropped.

        The peer is not told: the protocol has no way to.
        """
        self._in_flight.discard(stream_id)
        if self._streams.pop(stream_id, None) is not None:
            self._sending.discard(stream_id)
            self._single.discard(stream_id)

    def receive_data(
        self, data: bytes
    ) -> list[ResponseReceived | StreamReadable | CallFailed]:
        """Take bytes that came from the peer; return what they mean, in order."""
        events = map(self._maybe_event, self._frames_of(data))
        return [event for event in events if event is not None]

    def to_bytes(self) -> bytes:
        """Return the whole state, for a successor to carry on from."""
        calls = {
            "next_id": self._next_id,
            "in_flight": sorted(self._in_flight),
            "sending": sorted(self._sending),
            "single": sorted(self._single),
        }
        return self._dump("client", calls)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the connection of which `to_bytes` gave ``data``; else `DataLoss`."""
        new = cls()
        with damage_as_data_loss():
            calls = new._load("client", data)
            new._next_id = calls["next_id"]
            new._in_flight.update(calls["in_flight"])
            new._sending.update(calls["sending"])
            new._single.update(calls["single"])
        return new

    def _open(self, stream_id: int, kind: Kind) -> int:
        """Note a new stream; return the flags of its request."""
        self._streams[stream_id] = Incoming()
        if not kind.server_streams:
            self._single.add(stream_id)
        if not kind.client_streams:
            return CLOSED
        self._sending.add(stream_id)
        return OPEN

    def _expect_sending(self, stream_id: int) -> None:
        self._expect_open()
        if stream_id not in self._sending:
            raise LocalProtocolError(f"no messages can be sent on stream {stream_id}")

    def _maybe_event(
        self, frame: AnyFrame
    ) -> ResponseReceived | StreamReadable | CallFailed | None:
        stream_id = frame.stream_id
        if stream_id not in self._in_flight:
            return None  # abandoned, over, or nothing that we know
        if stream_id in self._streams:
            return self._maybe_message(frame)
        if isinstance(frame, OversizedFrame):
            event = CallFailed(stream_id, too_long(frame.length))
        elif frame.type == FrameType.RESPONSE:
            return self._response(stream_id, frame.data)
        elif frame.type == FrameType.DATA:
            error = RemoteProtocolError("a unary call was answered with a stream")
            event = CallFailed(stream_id, error)
        else:
            return None
        self._in_flight.remove(stream_id)
        return event

    def _maybe_message(self, frame: AnyFrame) -> StreamReadable | None:
        stream_id = frame.stream_id
        incoming = self._streams[stream_id]
        if isinstance(frame, OversizedFrame):
            self._end(stream_id, incoming, too_long(frame.length))
        elif frame.type == FrameType.RESPONSE:
            # The last message, of a stream too: so the Go client takes it.
            event = self._response(stream_id, frame.data)
            if isinstance(event, ResponseReceived):
                incoming.put(event.payload)
                incoming.end()
            else:
                incoming.end(event.error)
        elif frame.type != FrameType.DATA:
            return None
        elif stream_id in self._single:
            error = RemoteProtocolError("a call with one reply was answered by more")
            self._end(stream_id, incoming, error)
        elif not feed(incoming, frame):
            return None
        elif incoming.is_ended:
            self._in_flight.remove(stream_id)
        return StreamReadable(stream_id)

    def _end(self, stream_id: int, incoming: Incoming, error: DunnageError) -> None:
        self._in_flight.discard(stream_id)
        incoming.end(error)

    def _response(self, stream_id: int, data: bytes) -> ResponseReceived | CallFailed:
        self._in_flight.remove(stream_id)
        try:
            response = wire_pb2.Response.FromString(data)
        except DecodeError as cause:
            error = RemoteProtocolError(f"unmarshal response error: {cause}")
            return CallFailed(stream_id, error)
        if response.status.code:
            status = response.status
            return CallFailed(stream_id, from_status(status.code, status.message))
        return ResponseReceived(stream_id, response.payload)
