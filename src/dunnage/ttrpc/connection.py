"""Both ends of a ttrpc connection without a socket: bytes in, events out.

Owns which calls are in flight, what the peer is answered when it breaks a rule, and the
bytes that are still to be written.
Must not know: sockets, loops, clocks, which services exist, what a payload means.

The contract in one sentence: whatever bytes come, in whatever chunks, you get events or
`RemoteProtocolError`, nothing else; what the caller does wrong is `LocalProtocolError`.

A stream is a call whose messages come in frames of their own: `StreamReadable` says
that there is something, `take` gives it.
There is no window in ttrpc: a peer may send what it likes.
So whoever drives a connection asks `is_full` after each `StreamReadable`, and pauses,
or gives that stream up.

Invariant (one-answer): a call in flight leaves that state with its one answer, and no
answer goes out for a call that is not in flight.
Invariant (one-step-id): a stream id is taken in the same step that queues its frame, so
ids go onto the wire in order.
"""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from google.protobuf.message import DecodeError

from dunnage.errors import (
    DataLoss,
    DunnageError,
    EndOfStream,
    InvalidArgument,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceExhausted,
    from_status,
)

from . import status_pb2, wire_pb2
from .events import (
    CallFailed,
    RequestReceived,
    ResponseReceived,
    StreamReadable,
    decode_request,
    encode_request,
)
from .frames import (
    MAX_DATA_BYTES,
    AnyFrame,
    Flag,
    Frame,
    FrameBuffer,
    FrameType,
    OversizedFrame,
    encode_frame,
)
from .services import Kind
from .streams import Incoming

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

_MAX_STREAM_ID: Final = 0xFFFF_FFFF
_MAX_CODE: Final = 0x7FFF_FFFF
_STATE_VERSION: Final = 2

# How much is offered to the socket at once: about what a unix socket takes.
_WRITE_BYTES: Final = 256 << 10

# Plain numbers: arithmetic on flags costs each unary call a microsecond.
_CLOSED: Final = int(Flag.REMOTE_CLOSED)
_OPEN: Final = int(Flag.REMOTE_OPEN)
_NO_DATA: Final = int(Flag.NO_DATA)
_LAST: Final = _CLOSED | _NO_DATA


class Connection:
    """What both ends share: frames in, the queue of output, the state as bytes."""

    def __init__(self) -> None:
        self._frames = FrameBuffer()
        self._output = bytearray()
        self._streams: dict[int, Incoming] = {}
        self._is_ended = False

    def receive_eof(self) -> None:
        """Note that the peer will say no more.

        Raises:
            RemoteProtocolError: It stopped in the middle of a frame.
        """
        self._expect_open()
        self._is_ended = True
        if self._frames.unread:
            raise RemoteProtocolError("the connection ended in the middle of a frame")

    def take(self, stream_id: int) -> bytes | None:
        """Return the next message of a stream; None if it has not come yet.

        Also after the connection has ended: what came before counts.

        Raises:
            EndOfStream: There are no more, or this call receives no stream.
            DunnageError: What ended the stream before its time.
        """
        incoming = self._streams.get(stream_id)
        if incoming is None:
            raise EndOfStream(f"nothing comes on stream {stream_id}")
        return incoming.take()

    def is_full(self, stream_id: int) -> bool:
        """Tell whether more is unread on a stream than should be."""
        incoming = self._streams.get(stream_id)
        return incoming is not None and incoming.is_full

    @property
    def queued_bytes(self) -> int:
        """How many bytes wait to be written."""
        return len(self._output)

    def data_to_send(self) -> bytes:
        """Return the head of the output, for one attempt to write; b"" if none.

        It stays queued until `data_sent` says how much of it was written.
        """
        with memoryview(self._output) as view, view[:_WRITE_BYTES] as part:
            return bytes(part)

    def data_sent(self, count: int) -> None:
        """Take ``count`` written bytes off the head of the output."""
        if not 0 <= count <= len(self._output):
            raise LocalProtocolError(f"{count} bytes written of {len(self._output)}")
        del self._output[:count]

    def _frames_of(self, data: bytes) -> FrameBuffer:
        self._expect_open()
        self._frames.feed(data)
        return self._frames

    def _queue(
        self, stream_id: int, kind: FrameType, data: bytes, flags: int = 0
    ) -> None:
        self._output += encode_frame(Frame(stream_id, kind, flags, data))

    def _queue_message(self, stream_id: int, payload: bytes) -> None:
        if len(payload) > MAX_DATA_BYTES:
            raise _too_long(len(payload))
        self._queue(stream_id, FrameType.DATA, payload)

    def _expect_open(self) -> None:
        if self._is_ended:
            raise LocalProtocolError("this connection has ended")

    def _dump(self, role: str, calls: Any) -> bytes:
        self._expect_open()
        state = {
            "version": _STATE_VERSION,
            "role": role,
            "unread": _to_text(self._frames.unread),
            "dropped_bytes": self._frames.dropped_bytes,
            "output": _to_text(bytes(self._output)),
            "calls": calls,
            "streams": [
                [stream_id, incoming.to_state()]
                for stream_id, incoming in self._streams.items()
            ],
        }
        return json.dumps(state).encode()

    def _load(self, role: str, data: bytes) -> Any:
        state = json.loads(data)
        if (state["version"], state["role"]) != (_STATE_VERSION, role):
            raise DataLoss(f"not the state of a {role} connection")
        self._frames = FrameBuffer(_from_text(state["unread"]), state["dropped_bytes"])
        self._output += _from_text(state["output"])
        for stream_id, incoming in state["streams"]:
            self._streams[stream_id] = Incoming.from_state(incoming)
        return state["calls"]


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
        self._queue(stream_id, FrameType.DATA, b"", _LAST)

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
            [stream_id, _to_text(encode_request(request)), request.is_open]
            for stream_id, request in self._in_flight.items()
        ]
        return self._dump("server", calls)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the connection of which `to_bytes` gave ``data``; else `DataLoss`."""
        new = cls()
        with _damage_as_data_loss():
            for stream_id, call, is_open in new._load("server", data):
                request = decode_request(stream_id, _from_text(call), is_open=is_open)
                new._in_flight[stream_id] = request
        return new

    def _maybe_event(
        self, frame: AnyFrame
    ) -> RequestReceived | StreamReadable | CallFailed | None:
        stream_id = frame.stream_id
        if frame.type == FrameType.DATA and stream_id in self._streams:
            return self._maybe_message(frame)
        if isinstance(frame, OversizedFrame):
            error = _too_long(frame.length)
            self._refuse(stream_id, error.code, error.message)
        elif frame.type not in {FrameType.REQUEST, FrameType.DATA}:
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
            return self._fail(stream_id, _too_long(frame.length))
        if incoming.is_ended:
            return self._fail(stream_id, InvalidArgument("data after its stream's end"))
        if not _feed(incoming, frame):
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
            error = _too_long(len(data))
            self._refuse(stream_id, error.code, error.message)


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
            raise _too_long(len(data))
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
            self._queue(stream_id, FrameType.DATA, b"", _LAST)

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
        with _damage_as_data_loss():
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
            return _CLOSED
        self._sending.add(stream_id)
        return _OPEN

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
            event = CallFailed(stream_id, _too_long(frame.length))
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
            self._end(stream_id, incoming, _too_long(frame.length))
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
        elif not _feed(incoming, frame):
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


def _is_opening(flags: int) -> bool:
    return flags & (_OPEN | _CLOSED) == _OPEN


def _feed(incoming: Incoming, frame: Frame) -> bool:
    """Take a data frame; return whether it said anything."""
    has_message = not frame.flags & _NO_DATA
    is_last = bool(frame.flags & _CLOSED)
    if has_message:
        incoming.put(frame.data)
    if is_last:
        incoming.end()
    return has_message or is_last


def _too_long(length: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"message length {length} exceed maximum message size of {MAX_DATA_BYTES}"
    )


def _to_utf8(text: str) -> str:
    # File names that are no UTF-8 get into error texts as lone surrogates.
    return text.encode(errors="backslashreplace").decode()


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_text(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


@contextmanager
def _damage_as_data_loss() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, DecodeError) as error:
        raise DataLoss(f"the state of a connection is damaged: {error}") from error
