"""Times on the wire: protobuf's Timestamp and nanoseconds since the epoch."""

from __future__ import annotations

from typing import Final

from dunnage.descriptors import Timestamp

_SECOND_NS: Final = 1_000_000_000
# The zero of Go's time, year 1: containerd's "there is no such time", in its own words.
_ZERO_SECONDS: Final = -62135596800


def timestamp(at_ns: int | None) -> Timestamp:
    """Return the message for a time; None becomes the zero of Go's time."""
    if at_ns is None:
        return Timestamp(seconds=_ZERO_SECONDS)
    seconds, nanos = divmod(at_ns, _SECOND_NS)
    return Timestamp(seconds=seconds, nanos=nanos)


def nanoseconds(time: Timestamp) -> int | None:
    """Return the time of a message; None if it is Go's zero, or anything before 1970.

    Whether the message was there at all is the caller's to ask (``HasField``).
    """
    if time.seconds < 0:
        return None
    return time.seconds * _SECOND_NS + time.nanos
