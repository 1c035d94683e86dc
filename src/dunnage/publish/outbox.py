"""The queue between a task and whoever says its events: first in, first out.

Owns: the order of the events and the time on each.
Must not know: loops, sockets, daemons.

Invariant (fifo): events leave in the order in which they were put; nothing sorts,
    delays or overtakes.
Invariant (stamped-at-emit): an envelope carries the time of its `Outbox.put`, which
    never decreases in the queue even where the clock does, and its bytes are made
    there and then: said twice, they are the same bytes.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from dunnage.errors import DataLoss

from . import envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dunnage.task.events import Event

# The form of `Outbox.to_bytes`: version, last stamp; then each envelope's length and
# bytes.
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">Bq")
_LENGTH: Final = struct.Struct(">I")


class Outbox:
    """Events that wait to be said, each as the bytes of its envelope.

    There is no limit: what a task has to say is bounded by what is done to it, and
    an event lost is worse than a page of memory while the daemon is away.

    Attributes:
        on_put: called after each put; must return at once and not raise.
    """

    def __init__(self, namespace: str, clock: Callable[[], int] = time.time_ns) -> None:
        self.on_put: Callable[[], None] = _nothing
        self._namespace = namespace
        self._clock = clock
        self._last_ns = 0
        self._waiting: deque[bytes] = deque()

    def put(self, event: Event) -> None:
        """Stamp an event and queue it; neither blocks nor fails."""
        self._last_ns = max(self._last_ns, self._clock())
        self._waiting.append(envelope.encode(event, self._namespace, self._last_ns))
        self.on_put()

    def head(self) -> bytes | None:
        """Return the oldest envelope, None when nothing waits."""
        return self._waiting[0] if self._waiting else None

    def drop(self, at: int = 0) -> None:
        """Forget the envelope at a place: it was said, or never can be."""
        del self._waiting[at]

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._waiting)

    def to_bytes(self) -> bytes:
        """Return what waits, and the last stamp, for a successor process."""
        parts = [_HEAD.pack(_VERSION, self._last_ns)]
        for data in self._waiting:
            parts += [_LENGTH.pack(len(data)), data]
        return b"".join(parts)

    @classmethod
    def from_bytes(
        cls, data: bytes, namespace: str, clock: Callable[[], int] = time.time_ns
    ) -> Self:
        """Return the outbox that ``data`` was made from.

        Raises:
            DataLoss: ``data`` is not what `to_bytes` of this version made.
        """
        outbox = cls(namespace, clock)
        try:
            version, outbox._last_ns = _HEAD.unpack_from(data)
            at = _HEAD.size
            while at < len(data):
                (length,) = _LENGTH.unpack_from(data, at)
                at += _LENGTH.size + length
                outbox._waiting.append(data[at - length : at])
        except struct.error as error:
            raise DataLoss(f"outbox: {error}") from error
        if version != _VERSION or at != len(data):
            raise DataLoss(f"outbox: version {version}, {len(data)} of {at} bytes")
        return outbox


def _nothing() -> None:
    """Stand in for a publisher that is not there yet."""
