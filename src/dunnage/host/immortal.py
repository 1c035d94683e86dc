"""Objects that are never freed, so that nobody needs to know who refers to them.

A fork counts its references to an object where the object is: that is a write, and
copies a page. What a shim at rest had copied was for a half just that: one or two
counts on a page that was otherwise as in its parent.
All that the parent has before it forks lives as long as the forks anyway. So it is said
to be referred to very often (as from Python 3.12 on, where such counts stand still);
from then on a count may be put back to what it was, with its page (`memory.give_back`).

Only on CPython 3.11, and only after a count was seen where it should be.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import sys
from array import array
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Final

from . import native

_MANY: Final = 1 << 32
_AT_ONCE: Final = 1000


def make_immortal() -> int:
    """Have no object that can be found now ever freed, here or in a fork.

    Finalizers of those do not run any more.

    Returns:
        How many there were that had not been so before; 0 where it cannot be done.
    """
    if native.library is None or not _is_there():
        return 0
    found: list[object] = gc.get_objects()
    made = _mark(native.library, found)
    found += [each.__code__ for each in found if type(each) is FunctionType]
    while found:
        found, before = [], found
        for start in range(0, len(before), _AT_ONCE):
            some = before[start : start + _AT_ONCE]
            more = [*gc.get_referents(*some), *_of_codes(some)]
            more = [each for each in more if sys.getrefcount(each) < _MANY]
            made += _mark(native.library, more)
            found += more
    return made


def _mark(library: ctypes.CDLL, objects: Iterable[object]) -> int:
    addresses = array("Q", map(id, objects))
    where, count = addresses.buffer_info()
    return int(library.dunnage_immortalize(where, count))


def _of_codes(objects: Iterable[object]) -> Iterable[object]:
    """Return what code refers to, which the collector of garbage does not know."""
    return itertools.chain.from_iterable(
        (
            *(code.co_consts, code.co_names, code.co_filename, code.co_name),
            *(code.co_qualname, code.co_linetable, code.co_exceptiontable),
            *(*code.co_varnames, *code.co_freevars, *code.co_cellvars),
        )
        for code in objects
        if type(code) is CodeType
    )


def _is_there() -> bool:
    """Look whether references are counted at an object's begin."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        return False
    probe = object()
    count = ctypes.c_ssize_t.from_address(id(probe))
    before = count.value
    again = [probe] * 3
    return count.value == before + len(again)
