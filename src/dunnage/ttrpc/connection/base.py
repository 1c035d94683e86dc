"""What both ends share: frames in, the queue of output, streams, the state as bytes.

Must not know: which end it is, so what a request or a response is.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from dunnage.errors import (
    DataLoss,
    EndOfStream,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceExhausted,
)
from dunnage.ttrpc.frames import (
    MAX_DATA_BYTES,
    Flag,
    Frame,
    FrameBuffer,
    FrameType,
    encode_header,
)
from dunnage.ttrpc.streams import Incoming, from_text, to_text

if TYPE_CHECKING:
    from collections.abc import Iterator

# Plain numbers: arithmetic on flags costs each unary call a microsecond.
CLOSED: Final = int(Flag.REMOTE_CLOSED)
OPEN: Final = int(Flag.REMOTE_OPEN)
LAST: Final = int(Flag.REMOTE_CLOSED | Flag.NO_DATA)
_NO_DATA: Final = int(Flag.NO_DATA)

_STATE_VERSION: Final = 2

# How much is offered to the socket at once: about what a unix socket takes.
_WRITE_BYTES: Final = 256 << 10


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
    def unread_bytes(self) -> int:
        """How many bytes are held of a frame that is not whole yet."""
        return self._frames.unread_bytes

    @property
    def queued_bytes(self) -> int:
        """How many bytes wait to be written."""
        return len(self._output)

    def data_to_send(self) -> bytes:
        """Return the head of the output, for one attempt to write; b"" if none.

        It stays queued until `data_sent` says how much of it was written.
        """
        if len(self._output) <= _WRITE_BYTES:
            return bytes(self._output)
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
        self._output += encode_header(len(data), stream_id, kind, flags)
        self._output += data

    def _queue_message(self, stream_id: int, payload: bytes) -> None:
        if len(payload) > MAX_DATA_BYTES:
            raise too_long(len(payload))
        self._queue(stream_id, FrameType.DATA, payload)

    def _expect_open(self) -> None:
        if self._is_ended:
            raise LocalProtocolError("this connection has ended")

    def _dump(self, role: str, calls: Any) -> bytes:
        self._expect_open()
        state = {
            "version": _STATE_VERSION,
            "role": role,
            "unread": to_text(self._frames.unread),
            "dropped_bytes": self._frames.dropped_bytes,
            "output": to_text(bytes(self._output)),
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
        self._frames = FrameBuffer(from_text(state["unread"]), state["dropped_bytes"])
        self._output += from_text(state["output"])
        for stream_id, incoming in state["streams"]:
            self._streams[stream_id] = Incoming.from_state(incoming)
        return state["calls"]


def feed(incoming: Incoming, frame: Frame) -> bool:
    """Take a data frame; return whether it said anything."""
    has_message = not frame.flags & _NO_DATA
    is_last = bool(frame.flags & CLOSED)
    if has_message:
        incoming.put(frame.data)
    if is_last:
        incoming.end()
    return has_message or is_last


def too_long(length: int) -> ResourceExhausted:
    """Return what is said of data that is longer than a frame can be."""
    return ResourceExhausted(
        f"message length {length} exceed maximum message size of {MAX_DATA_BYTES}"
    )


@contextmanager
def damage_as_data_loss() -> Iterator[None]:
    """Turn what a damaged state raises into `DataLoss`."""
    try:
        yield
    except (ValueError, TypeError, KeyError, DecodeError) as error:
        raise DataLoss(f"the state of a connection is damaged: {error}") from error
