"""The end that is called: requests in; responses, errors and messages out.

Refuses by itself what the protocol knows to be wrong.
Must not know: which services exist, how long an answer takes.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

from google.protobuf.message import DecodeError

from dunnage.errors import DunnageError, InvalidArgument, LocalProtocolError
from dunnage.ttrpc import status_pb2, wire_pb2
from dunnage.ttrpc.events import (
    CallFailed,
    RequestReceived,
    StreamReadable,
    decode_request,
    encode_request,
)
from dunnage.ttrpc.frames import MAX_DATA_BYTES, AnyFrame, FrameType, OversizedFrame
from dunnage.ttrpc.streams import Incoming, from_text, to_text

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
    from collections.abc import Mapping

_MAX_CODE: Final = 0x7FFF_FFFF

# Plain numbers, which have a hash of their own; that of an enum's member is slow.
_KNOWN: Final = frozenset({int(FrameType.REQUEST), int(FrameType.DATA)})


class ServerConnection(Connection):
    """The end that is called.

    Refuses by itself what the protocol knows to be wrong; every `RequestReceived` is
    to be answered, with `send_response`, `send_error` or `end_stream`, in any order,
    unless `CallFailed` comes first.
    Before `end_stream` any number of messages may go out with `send_message`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._in_flight: dict[int, RequestReceived] = {}

    @property
    def in_flight(self) -> Mapping[int, RequestReceived]:
        """The requests that are not answered yet, by stream id, as they came."""
        return MappingProxyType(self._in_flight)

    def send_response(self, stream_id: int, payload: bytes) -> None:
        """Answer a request with success.

        A response that is too long for the peer is answered as an error instead.
        """
        self._finish(stream_id)
        self._answer(stream_id, wire_pb2.Response(payload=payload))

    def send_error(self, stream_id: int, code: int, text: str) -> None:
        """Answer a request with an error; the text goes out as it is."""
        if not 0 < code <= _MAX_CODE:
            raise LocalProtocolError(f"{code} is not the code of an error")
        self._finish(stream_id)
        self._refuse(stream_id, code, text)

    def send_message(self, stream_id: int, payload: bytes) -> None:
        """Send one message of a stream of responses.

        Raises:
            ResourceExhausted: It is too long; nothing was queued.
        """
        self._expect_in_flight(stream_id)
        self._queue_message(stream_id, payload)

    def end_stream(self, stream_id: int) -> None:
        """Answer a request with the end of its stream of responses."""
        self._finish(stream_id)
        self._queue(stream_id, FrameType.DATA, b"", LAST)

    def close_input(self, stream_id: int) -> None:
        """Refuse messages on a stream, because its method takes none."""
        self._streams.pop(stream_id, None)

    def receive_data(
        self, data: bytes
    ) -> list[RequestReceived | StreamReadable | CallFailed]:
        """Take bytes that came from the peer; return what they mean, in order."""
        events = map(self._maybe_event, self._frames_of(data))
        return [event for event in events if event is not None]

    def to_bytes(self) -> bytes:
        """Return the whole state, for a successor to carry on from."""
        calls = [
            [stream_id, to_text(encode_request(request)), request.is_open]
            for stream_id, request in self._in_flight.items()
        ]
        return self._dump("server", calls)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the connection of which `to_bytes` gave ``data``; else `DataLoss`."""
        new = cls()
        with damage_as_data_loss():
            for stream_id, call, is_open in new._load("server", data):
                request = decode_request(stream_id, from_text(call), is_open=is_open)
                new._in_flight[stream_id] = request
        return new

    def _maybe_event(
        self, frame: AnyFrame
    ) -> RequestReceived | StreamReadable | CallFailed | None:
        stream_id = frame.stream_id
        if frame.type == FrameType.DATA and stream_id in self._streams:
            return self._maybe_message(frame)
        if isinstance(frame, OversizedFrame):
            error = too_long(frame.length)
            self._refuse(stream_id, error.code, error.message)
        elif frame.type not in _KNOWN:
            pass  # left for versions to come
        elif stream_id % 2 == 0:
            self._refuse(
                stream_id,
                InvalidArgument.code,
                "StreamID must be odd for client initiated streams",
            )
        elif frame.type == FrameType.REQUEST:
            return self._maybe_request(stream_id, frame.flags, frame.data)
        else:
            # containerd's server (ttrpc 1.2.8) crashes on the first of the two.
            is_unary = stream_id in self._in_flight
            text = "is of a unary call" if is_unary else "is no longer active"
            self._refuse(stream_id, InvalidArgument.code, f"StreamID {text}")
        return None

    def _maybe_message(self, frame: AnyFrame) -> StreamReadable | CallFailed | None:
        stream_id = frame.stream_id
        incoming = self._streams[stream_id]
        if isinstance(frame, OversizedFrame):
            # A stream with a hole is not what the peer said.
            return self._fail(stream_id, too_long(frame.length))
        if incoming.is_ended:
            return self._fail(stream_id, InvalidArgument("data after its stream's end"))
        if not feed(incoming, frame):
            return None
        return StreamReadable(stream_id)

    def _fail(self, stream_id: int, error: DunnageError) -> CallFailed:
        self._finish(stream_id)
        self._refuse(stream_id, error.code, error.message)
        return CallFailed(stream_id, error)

    def _maybe_request(
        self, stream_id: int, flags: int, data: bytes
    ) -> RequestReceived | None:
        # Ids that do not increase are let pass, as by ttrpc before 1.2: the rule
        # protects nothing, and the clients of that time raced.
        if stream_id in self._in_flight:
            self._refuse(
                stream_id,
                InvalidArgument.code,
                "StreamID cannot be re-used and must increment",
            )
            return None
        try:
            event = decode_request(stream_id, data, is_open=_is_opening(flags))
        except DecodeError as error:
            self._refuse(
                stream_id, InvalidArgument.code, f"unmarshal request error: {error}"
            )
            return None
        self._in_flight[stream_id] = event
        if event.is_open:
            self._streams[stream_id] = Incoming()
        return event

    def _expect_in_flight(self, stream_id: int) -> None:
        self._expect_open()
        if stream_id not in self._in_flight:
            raise LocalProtocolError(f"no request is in flight on stream {stream_id}")

    def _finish(self, stream_id: int) -> None:
        self._expect_in_flight(stream_id)
        del self._in_flight[stream_id]
        self._streams.pop(stream_id, None)

    def _refuse(self, stream_id: int, code: int, text: str) -> None:
        status = status_pb2.Status(code=code, message=_to_utf8(text))
        self._answer(stream_id, wire_pb2.Response(status=status))

    def _answer(self, stream_id: int, response: wire_pb2.Response) -> None:
        data = response.SerializeToString()
        if len(data) <= MAX_DATA_BYTES:
            self._queue(stream_id, FrameType.RESPONSE, data)
        else:
            error = too_long(len(data))
            self._refuse(stream_id, error.code, error.message)


def _is_opening(flags: int) -> bool:
    return flags & (OPEN | CLOSED) == OPEN


def _to_utf8(text: str) -> str:
    # File names that are no UTF-8 get into error texts as lone surrogates.
    return text.encode(errors="backslashreplace").decode()
