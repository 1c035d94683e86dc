"""Twin of dunnage.publish.outbox."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.errors import DataLoss
from dunnage.publish import envelope
from dunnage.publish.outbox import Outbox
from dunnage.task.events import TaskStart


def outbox_at(*times_ns: int) -> Outbox:
    """Return an outbox whose clock shows these times, one per put."""
    times = iter(times_ns)
    return Outbox("default", lambda: next(times))


def pids(outbox: Outbox) -> list[int]:
    """Return what waits, by the pids that were put into the events."""
    return [envelope.decode(data).event.value[-1] for data in outbox]


def stamps(outbox: Outbox) -> list[int]:
    """Return the times of what waits."""
    times = [envelope.decode(data).timestamp for data in outbox]
    return [time.seconds * 1_000_000_000 + time.nanos for time in times]


def put(outbox: Outbox, count: int) -> None:
    """Put events with the pids 1, 2, 3 and so on."""
    for pid in range(1, count + 1):
        outbox.put(TaskStart("c1", pid))


def test_fifo() -> None:
    """fifo: what was put first is the head."""
    outbox = outbox_at(1, 2, 3)
    put(outbox, 3)
    assert (pids(outbox), len(outbox)) == ([1, 2, 3], 3)
    outbox.drop()
    assert pids(outbox) == [2, 3]


def test_empty() -> None:
    """An empty outbox has no head."""
    outbox = Outbox("default")
    assert (outbox.head(), len(outbox)) == (None, 0)


def test_head_stays() -> None:
    """The head is the same bytes however often it is asked for."""
    outbox = outbox_at(1)
    put(outbox, 1)
    assert outbox.head() is outbox.head()


def test_stamped_at_emit() -> None:
    """stamped-at-emit: the times are those of the puts and never decrease."""
    outbox = outbox_at(5, 3, 4, 9_000_000_000)
    put(outbox, 4)
    assert stamps(outbox) == [5, 5, 5, 9_000_000_000]


def test_stamp_outlives_the_queue() -> None:
    """stamped-at-emit: the clock cannot go back behind an event that was said."""
    outbox = outbox_at(5, 3)
    put(outbox, 1)
    outbox.drop()
    put(outbox, 1)
    assert stamps(outbox) == [5]


def test_on_put() -> None:
    """The publisher is told of each put, when the event can be had."""
    outbox = outbox_at(1, 2)
    seen: list[int] = []
    outbox.on_put = lambda: seen.append(len(outbox))
    put(outbox, 2)
    assert seen == [1, 2]


@given(st.integers(0, 9))
def test_round_trip(count: int) -> None:
    """A successor finds the same bytes, and its stamps do not go back."""
    outbox = outbox_at(*range(100, 100 + count))
    put(outbox, count)
    successor = Outbox.from_bytes(outbox.to_bytes(), "default", lambda: 1)
    assert list(successor) == list(outbox)
    successor.put(TaskStart("c1", 7))
    assert stamps(successor)[-1] == (99 + count if count else 1)


@given(st.binary(max_size=40))
def test_damaged_bytes(data: bytes) -> None:
    """Bytes that are no outbox are DataLoss or, by chance, an outbox."""
    try:
        Outbox.from_bytes(data, "default")
    except DataLoss:
        return
    assert data[:1] == b"\x01"


@pytest.mark.parametrize("cut", [1, 8, 10, 20])
def test_truncated_bytes(cut: int) -> None:
    """An outbox that was cut off is DataLoss."""
    outbox = outbox_at(1)
    put(outbox, 1)
    with pytest.raises(DataLoss):
        Outbox.from_bytes(outbox.to_bytes()[:cut], "default")
