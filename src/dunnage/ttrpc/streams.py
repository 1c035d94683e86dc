"""What came on one stream and was not taken yet, and how the stream ended.

A call that is a stream receives messages; this holds them until their owner takes them,
so that what was read and not used can be handed over with the connection.

Must not know: frames, sockets, which end it belongs to, what a message means.

Invariant (nothing-overtakes): messages are taken in the order in which they came, and
the end only after all of them.
"""

from __future__ import annotations

import base64
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self

from dunnage.errors import DunnageError, EndOfStream, from_status

if TYPE_CHECKING:
    from collections.abc import Iterable

UNREAD_LIMIT_BYTES: Final = 256 << 10
"""Beyond this a stream is full: whoever feeds it should pause, or give it up."""

# What an empty message costs us; else a flood of them would count for nothing.
_MESSAGE_BYTES: Final = 64


class Incoming:
    """The receiving half of a stream.

    Args:
        unread: Messages that are there from the beginning.
    """

    __slots__ = ("_bytes", "_end", "_unread")

    def __init__(self, unread: Iterable[bytes] = ()) -> None:
        self._unread = deque(unread)
        self._bytes = sum(map(_cost, self._unread))
        self._end: tuple[type[DunnageError], str] | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more comes, besides what is unread."""
        return self._end is not None

    @property
    def is_full(self) -> bool:
        """Whether more is unread than should be, and yet more may come."""
        return self._bytes > UNREAD_LIMIT_BYTES and self._end is None

    def put(self, payload: bytes) -> None:
        """Add a message."""
        self._unread.append(payload)
        self._bytes += _cost(payload)

    def end(self, error: DunnageError | None = None) -> None:
        """Note that nothing more comes; with ``error`` it is not the end meant.

        Only the first end counts.
        """
        if self._end is None:
            error = error or EndOfStream("the peer sends no more messages")
            self._end = (type(error), error.message)

    def take(self) -> bytes | None:
        """Return the next message; None if it has not come yet.

        Raises:
            EndOfStream: There are no more.
            DunnageError: What ended the stream before its time.
        """
        if self._unread:
            payload = self._unread.popleft()
            self._bytes -= _cost(payload)
            return payload
        self.expect_open()
        return None

    def expect_open(self) -> None:
        """Raise what ended the stream, anew each time, if it has ended."""
        if self._end is not None:
            kind, text = self._end
            raise kind(text)

    def to_state(self) -> Any:
        """Return the whole state as values of JSON.

        Of an error its code is kept, not which of the classes with that code it is.
        """
        end = None
        if self._end is not None:
            kind, text = self._end
            end = [0 if kind is EndOfStream else kind.code, text]
        return {"unread": [*map(to_text, self._unread)], "end": end}

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """Return the half of which `to_state` gave ``state``; `ValueError` and such."""
        new = cls(map(from_text, state["unread"]))
        if state["end"] is not None:
            code, text = state["end"]
            new.end(from_status(code, text) if code else EndOfStream(text))
        return new


def _cost(payload: bytes) -> int:
    return len(payload) + _MESSAGE_BYTES


def to_text(data: bytes) -> str:
    """Return bytes as text that JSON can hold."""
    return base64.b64encode(data).decode()


def from_text(text: str) -> bytes:
    """Return the bytes of which `to_text` gave ``text``; else `ValueError`."""
    return base64.b64decode(text, validate=True)
