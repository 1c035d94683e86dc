"""The interpreter's pools of small blocks, filled up before a process forks.

Pools that are in use have free blocks among the others.
Whatever a fork makes would lie there, on pages that are shared until then; with these
blocks taken it lies side by side on pages of its own.

Owns: which blocks are taken. Needs nothing of pools but that an object's address is
its `id`; where that is not so, some blocks are taken for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

_STEP: Final = 16
_LARGEST: Final = 512
"""Bytes of the largest block; what is larger comes from libc."""
_POOL_BYTES: Final = 1 << 14
_MOST: Final = 20_000
"""So many blocks of a size are taken at most: something is odd then."""
_EMPTY_BYTES: Final = bytes.__basicsize__

_taken: list[list[object]] = []


def fill_up() -> int:
    """Take the free blocks, for good; return how many."""
    taken = [_take(size) for size in range(_STEP, _LARGEST + 1, _STEP)]
    _taken.extend(taken)
    return sum(map(len, taken))


def _take(size: int) -> list[object]:
    """Take blocks of a size, until they come in such sequence as in an empty pool."""
    make = _maker(size)
    taken: list[object] = []
    before = in_sequence = 0
    wanted = _POOL_BYTES // size // 2
    while in_sequence < wanted and len(taken) < _MOST:
        taken.append(make())
        address = id(taken[-1])
        in_sequence = in_sequence + 1 if address == before + size else 0
        before = address
    del taken[-1 - in_sequence :]
    return taken


def _maker(size: int) -> Callable[[], object]:
    """Return what makes an object of one block, of which no others are kept in hand."""
    if size < _EMPTY_BYTES:
        return object if size == object.__basicsize__ else partial(complex, 1.0)
    return partial(bytes, size - _EMPTY_BYTES)
