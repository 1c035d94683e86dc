"""Code that is not looked at any more: it stays in memory as it is.

CPython 3.11 counts the calls of each code object up to eight, in the object itself, and
then rewrites its instructions, with counters between them.
In a shim that copies a page for nearly every function that is called at all.
A shim runs most of its code a few times, which is not worth the counting: the count is
set to the value that means "counted". So that code is never specialised, and what was
before is.

Code that has been rewritten before goes on counting, between its instructions: it gets
its first instructions back.
And a type gets a number when it is first asked for an attribute: all have theirs then.

Where all this lies is not taken on trust: a function of our own is called and looked
at first. On other versions nothing happens.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Final

_WHERE: Final = 52
"""Of the count in a code object, a signed 16-bit number; negative while it counts."""
_FIRST: Final = -8
_INSTRUCTIONS: Final = 184
"""Where they begin in a code object."""
_KEPT: Final = 152
"""Where it keeps what it once gave as ``co_code``, the first instructions in bytes."""


def stand_still() -> int:
    """Have no code counted any more; return how many were. 0: this is not for us."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        return 0
    if not _is_there():
        return 0
    found = 0
    for code in _codes(gc.get_objects()):
        count = _count_of(code)
        if _FIRST <= count.value < 0:
            count.value = 0
            found += 1
        else:
            _restore(code)
    for each in gc.get_objects():
        if isinstance(each, type):
            getattr(each, "__doc__", None)
    return found


def _restore(code: CodeType) -> None:
    """Give code its first instructions back."""
    kept = ctypes.c_void_p.from_address(id(code) + _KEPT)
    was_kept = kept.value is not None
    first = code.co_code
    ctypes.memmove(id(code) + _INSTRUCTIONS, first, len(first))
    if not was_kept:  # nobody needs them twice
        kept.value = None
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(first))


def _count_of(code: CodeType) -> ctypes.c_int16:
    return ctypes.c_int16.from_address(id(code) + _WHERE)


def _is_there() -> bool:
    """Look whether the count is where we think: whether it counts."""
    scope: dict[str, FunctionType] = {}
    exec("def probe(): return len", scope)  # noqa: S102  # code that never ran
    probe = scope["probe"]
    count = _count_of(probe.__code__)
    for calls in range(-_FIRST):
        if count.value != _FIRST + calls:
            return False
        probe()
    code = probe.__code__
    kept = ctypes.c_void_p.from_address(id(code) + _KEPT)
    if count.value != 0 or kept.value is not None:
        return False
    first = code.co_code
    # It has been rewritten by now, and is as long as it was.
    there = ctypes.string_at(id(code) + _INSTRUCTIONS, len(first))
    return kept.value == id(first) and there[-2:] == first[-2:] and there != first


def _codes(objects: Iterable[object]) -> Iterator[CodeType]:
    """Yield the code of all functions, and that of those within them."""
    seen: set[int] = set()
    waiting = [o.__code__ for o in objects if type(o) is FunctionType]
    while waiting:
        code = waiting.pop()
        if id(code) not in seen:
            seen.add(id(code))
            waiting += [c for c in code.co_consts if isinstance(c, CodeType)]
            yield code
