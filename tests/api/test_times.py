"""Times on the wire."""

from __future__ import annotations

import pytest

from dunnage.api.times import nanoseconds, timestamp
from dunnage.descriptors import Timestamp


@pytest.mark.parametrize("at_ns", [None, 1, 1_700_000_000_000_000_005])
def test_a_time_comes_back(at_ns: int | None) -> None:
    """A time, and its absence, survive the wire."""
    sent = Timestamp.FromString(timestamp(at_ns).SerializeToString())

    assert at_ns == nanoseconds(sent)


def test_no_time_is_the_zero_of_go() -> None:
    """Absence is encoded as year 1, as both generations of the Go shim do."""
    assert bytes.fromhex("0880 92b8 c398 feff ffff 01") == (
        timestamp(None).SerializeToString()
    )
