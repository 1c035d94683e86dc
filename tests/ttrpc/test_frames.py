"""Frames cut out of bytes."""

from __future__ import annotations

import struct

import pytest

from dunnage.ttrpc.frames import (
    MAX_DATA_BYTES,
    AnyFrame,
    Frame,
    FrameBuffer,
    FrameType,
    OversizedFrame,
    encode_frame,
)

FRAME = Frame(5, FrameType.RESPONSE, 0, b"four")
FRAME_BYTES = bytes.fromhex("00000004 00000005 02 00") + b"four"


def header(length: int, stream_id: int = 1) -> bytes:
    """Return the header of a request frame of that length."""
    return struct.pack(">IIBB", length, stream_id, FrameType.REQUEST, 0)


def frames_of(*chunks: bytes) -> list[AnyFrame]:
    """Return the frames in the chunks, fed one after another."""
    buffer = FrameBuffer()
    frames: list[AnyFrame] = []
    for chunk in chunks:
        buffer.feed(chunk)
        frames += buffer
    return frames


def test_a_frame_is_header_and_data() -> None:
    """A frame is ten bytes of big-endian header, then its data."""
    assert FRAME_BYTES == encode_frame(FRAME)


def test_frames_come_out_whole_however_they_come_in() -> None:
    """One piece or byte by byte: the same frames."""
    two = FRAME_BYTES * 2
    assert frames_of(two) == [FRAME, FRAME]
    assert frames_of(*(bytes([byte]) for byte in two)) == [FRAME, FRAME]


def test_a_frame_without_data_is_a_frame() -> None:
    """Length zero is neither the end nor nothing."""
    empty = bytes.fromhex("00000000 00000003 02 00")
    assert frames_of(empty) == [Frame(3, FrameType.RESPONSE)]


def test_unknown_types_and_flags_are_kept_as_they_are() -> None:
    """A buffer does not judge types and flags."""
    assert frames_of(bytes.fromhex("00000000 00000000 ff 99")) == [Frame(0, 255, 0x99)]


def test_the_longest_frame_is_legal() -> None:
    """Exactly 4 MiB of data is a frame."""
    data = bytes(MAX_DATA_BYTES)
    assert frames_of(header(len(data)) + data) == [Frame(1, FrameType.REQUEST, 0, data)]


def test_a_longer_frame_is_skipped_exactly() -> None:
    """One byte more is skipped and named; the next frame is whole again."""
    length = MAX_DATA_BYTES + 1
    skipped = OversizedFrame(1, FrameType.REQUEST, 0, length)
    assert frames_of(header(length) + bytes(length) + FRAME_BYTES) == [skipped, FRAME]


def test_skipping_holds_nothing() -> None:
    """The data of a frame that is too long is not kept while it comes."""
    buffer = FrameBuffer()
    buffer.feed(header(0xFFFF_FFFF))
    for _ in range(100):
        buffer.feed(bytes(64 << 10))
        assert list(buffer) == []
    assert buffer.unread == header(0xFFFF_FFFF)
    assert buffer.dropped_bytes == 100 * (64 << 10)


@pytest.mark.parametrize("at", [3, 10, 12, len(FRAME_BYTES)])
def test_another_buffer_continues_a_frame(at: int) -> None:
    """A buffer made of what another left unread carries on where that one was."""
    first = FrameBuffer()
    first.feed(FRAME_BYTES[:at])
    frames = list(first)
    second = FrameBuffer(first.unread, first.dropped_bytes)
    second.feed(FRAME_BYTES[at:])
    assert frames + list(second) == [FRAME]


def test_another_buffer_continues_a_skip() -> None:
    """A skip that one buffer began is ended by another, with the length as it was."""
    length = MAX_DATA_BYTES + 100
    first = FrameBuffer()
    first.feed(header(length) + bytes(50))
    assert list(first) == []
    second = FrameBuffer(first.unread, first.dropped_bytes)
    second.feed(bytes(length - 50) + FRAME_BYTES)
    assert list(second) == [OversizedFrame(1, FrameType.REQUEST, 0, length), FRAME]
