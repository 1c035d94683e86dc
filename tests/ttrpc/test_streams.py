"""What is kept of a stream until it is taken."""

from __future__ import annotations

import json

import pytest

from dunnage.errors import EndOfStream, NotFound, OutOfRange
from dunnage.ttrpc.streams import UNREAD_LIMIT_BYTES, Incoming


def test_messages_come_before_the_end() -> None:
    """What came is taken in its order, an empty message too, and then the end."""
    incoming = Incoming()
    assert incoming.take() is None
    for payload in (b"a", b"", b"b"):
        incoming.put(payload)
    incoming.end()
    assert [b"a", b"", b"b"] == [incoming.take() for _ in range(3)]
    for _ in range(2):
        with pytest.raises(EndOfStream):
            incoming.take()


def test_only_the_first_end_counts() -> None:
    """An end stays what it was."""
    incoming = Incoming()
    incoming.end(NotFound("gone"))
    incoming.end()
    with pytest.raises(NotFound, match=r"^gone$"):
        incoming.take()


@pytest.mark.parametrize("payload", [b"", bytes(1000), bytes(UNREAD_LIMIT_BYTES)])
def test_full_is_counted_in_bytes(payload: bytes) -> None:
    """A stream gets full by small messages as by large ones, and is so no longer then.

    Invariant (bounded-stream): an empty message counts, too.
    """
    incoming = Incoming()
    count = 0
    while not incoming.is_full:
        incoming.put(payload)
        count += 1
    assert count <= UNREAD_LIMIT_BYTES / 64 + 1
    assert incoming.take() == payload
    assert not incoming.is_full


@pytest.mark.parametrize(
    ("end", "kind"),
    [(None, EndOfStream), (NotFound("x"), NotFound), (OutOfRange("x"), OutOfRange)],
)
def test_there_and_back(end: NotFound | None, kind: type[Exception]) -> None:
    """A successor takes what was unread, and the same end."""
    first = Incoming([b"a", b"\xff"])
    first.end(end)
    second = Incoming.from_state(json.loads(json.dumps(first.to_state())))
    assert [b"a", b"\xff"] == [second.take(), second.take()]
    with pytest.raises(kind) as caught:
        second.take()
    assert type(caught.value) is kind
    assert not second.is_full
