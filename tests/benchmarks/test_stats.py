"""The twin of benchmarks/stats.py."""

from __future__ import annotations

import pytest
from benchmarks.stats import Spread, differences, quantile, ratios, spread


def test_the_median_lies_in_the_middle() -> None:
    """An even number of samples has its median between the two in the middle."""
    assert quantile([1.0, 2.0, 3.0, 10.0], 0.5) == pytest.approx(2.5)
    assert quantile([7.0], 0.9) == pytest.approx(7.0)


def test_lost_samples_count_for_nothing() -> None:
    """A spread is that of the samples that are there; of none there is none."""
    assert Spread(3, 1.2, 2.0, 2.8) == spread([3.0, None, 1.0, 2.0])
    assert spread([None]) is None
    assert spread([]) is None


def test_ratios_are_of_one_round() -> None:
    """A round that is slow for both changes no ratio; one that lacks either is out."""
    found = ratios([1.0, 10.0, 5.0, None], [2.0, 20.0, None, 4.0])

    assert found == Spread(2, 0.5, 0.5, 0.5)


def test_above_the_floor_is_above_that_of_its_round() -> None:
    """Each sample has its own floor."""
    assert [1.0, None, 2.0] == differences([3.0, 4.0, 7.0], [2.0, None, 5.0])
