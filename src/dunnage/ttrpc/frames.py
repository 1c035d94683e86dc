"""The frame of ttrpc: ten bytes of header, then data; and a buffer that cuts frames.

Owns the layout of the header and the limit on a frame's length.
Must not know: what the data of a frame means, streams, sockets.

Invariant (bounded): between two feeds a buffer holds less than one frame of legal
length; the data of a frame that is too long is thrown away as it comes.
Invariant (linear): the work is linear in the number of bytes, however they are chunked.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DATA_BYTES: Final = 4 << 20
"""The longest data part that either side accepts; the header does not count."""

HEADER_BYTES: Final = 10

_HEADER: Final = struct.Struct(">IIBB")  # length, stream id, type, flags


class FrameType(IntEnum):
    """What the data of a frame is; other numbers are legal and to be ignored."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(IntFlag):
    """How a frame changes its stream; a unary call uses none of them."""

    REMOTE_CLOSED = 1
    REMOTE_OPEN = 2
    NO_DATA = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One complete frame; ``type`` and ``flags`` are as they came, known or not."""

    stream_id: int
    type: int
    flags: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class OversizedFrame:
    """A frame whose data was too long, and was skipped; ``length`` is what it said."""

    stream_id: int
    type: int
    flags: int
    length: int


AnyFrame: TypeAlias = Frame | OversizedFrame


def encode_frame(frame: Frame) -> bytes:
    """Return the frame as bytes; its data must be within the limit."""
    data = frame.data
    return encode_header(len(data), frame.stream_id, frame.type, frame.flags) + data


def encode_header(length: int, stream_id: int, kind: int, flags: int = 0) -> bytes:
    """Return what stands in front of that much data, which is within the limit."""
    assert length <= MAX_DATA_BYTES
    return _HEADER.pack(length, stream_id, kind, flags)


class FrameBuffer:
    """Takes bytes in any chunks; iterates over the frames that are complete by now.

    Iterate to the end after every `feed`.
    A length of zero is a frame like any other: most replies without content are so.

    Args:
        unread: What `unread` gave in another buffer, whose work this one continues.
        dropped_bytes: Likewise.
    """

    def __init__(self, unread: bytes = b"", dropped_bytes: int = 0) -> None:
        self._bytes = bytearray(unread)
        # How much was thrown away of the frame that stands in front, if it is too
        # long: then its header stays in front until its last byte has passed.
        self._dropped_bytes = dropped_bytes

    @property
    def unread(self) -> bytes:
        """The beginning of the next frame; empty when the stream may end here."""
        return bytes(self._bytes)

    @property
    def dropped_bytes(self) -> int:
        """How many bytes of the next frame's data were thrown away already."""
        return self._dropped_bytes

    @property
    def unread_bytes(self) -> int:
        """How many bytes of memory the beginning of the next frame takes."""
        return len(self._bytes)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._bytes += data

    def __iter__(self) -> Iterator[AnyFrame]:
        while (frame := self._maybe_next()) is not None:
            yield frame

    def _maybe_next(self) -> AnyFrame | None:
        if len(self._bytes) < HEADER_BYTES:
            return None
        length, stream_id, kind, flags = _HEADER.unpack_from(self._bytes)
        if length > MAX_DATA_BYTES:
            return self._maybe_skip(OversizedFrame(stream_id, kind, flags, length))
        end = HEADER_BYTES + length
        if len(self._bytes) < end:
            return None
        with memoryview(self._bytes) as view, view[HEADER_BYTES:end] as part:
            data = bytes(part)
        # Cheap: a bytearray gives up its front by moving a pointer.
        del self._bytes[:end]
        return Frame(stream_id, kind, flags, data)

    def _maybe_skip(self, frame: OversizedFrame) -> OversizedFrame | None:
        dropping = min(
            len(self._bytes) - HEADER_BYTES, frame.length - self._dropped_bytes
        )
        self._dropped_bytes += dropping
        if self._dropped_bytes < frame.length:
            del self._bytes[HEADER_BYTES:]
            return None
        del self._bytes[: HEADER_BYTES + dropping]
        self._dropped_bytes = 0
        return frame
