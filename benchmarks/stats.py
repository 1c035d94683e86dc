"""Samples, and what a table says of them: the middle, the spread, ratios by round.

A sample that is None was lost (an event that never came, a call that failed): it counts
for nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Samples: TypeAlias = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some samples, and between what eight tenths of them lie."""

    count: int
    low: float
    """The tenth percentile."""
    median: float
    high: float
    """The ninetieth percentile."""


def quantile(ordered: Sequence[float], part: float) -> float:
    """Return the value below which ``part`` of the samples lie, interpolated."""
    at = part * (len(ordered) - 1)
    below = int(at)
    if below + 1 >= len(ordered):
        return ordered[-1]
    return ordered[below] + (at - below) * (ordered[below + 1] - ordered[below])


def spread(samples: Samples) -> Spread | None:
    """Return how samples spread; None if there are none."""
    ordered = sorted(sample for sample in samples if sample is not None)
    if not ordered:
        return None
    low, median, high = (quantile(ordered, part) for part in (0.1, 0.5, 0.9))
    return Spread(len(ordered), low, median, high)


def differences(samples: Samples, floor: Samples) -> list[float | None]:
    """Return each sample less the floor of its own round."""
    pairs = zip(samples, floor, strict=False)
    return [None if a is None or b is None else a - b for a, b in pairs]


def ratios(samples: Samples, reference: Samples) -> Spread | None:
    """Return how the ratios to a reference spread, each of two samples of one round.

    The machine's own ups and downs are common to both, and fall out.
    """
    pairs = zip(samples, reference, strict=False)
    return spread(
        [a / b for a, b in pairs if a is not None and b is not None and b > 0]
    )
