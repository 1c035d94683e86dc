"""The small library of C beside us (``native/``), where it was built.

Owns: loading it, and its structures, stated once more for ctypes.

It is loaded once and stays: the package may be removed under us.
Without it (no compiler where the package was built, another machine) everything works,
and is slower.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ctypes import Array

_LAYOUT: Final = 7
"""Must be that of the library: an editable install may have an older one."""
_FILE: Final = "libprocs.so"
_POINTERS_STEP: Final = 16
MOST_FDS: Final = 6
"""How many a program can be given."""


class Order(ctypes.Structure):
    """What to start: ``struct order``."""

    _fields_ = (
        ("programs", ctypes.POINTER(ctypes.c_char_p)),
        ("argv", ctypes.POINTER(ctypes.c_char_p)),
        ("envp", ctypes.POINTER(ctypes.c_char_p)),
        ("cwd", ctypes.c_char_p),
        ("defaults", ctypes.c_uint64),
        ("nofile_soft", ctypes.c_uint64),
        ("nofile_hard", ctypes.c_uint64),
        ("fds", ctypes.c_int32 * MOST_FDS),
        ("fd_count", ctypes.c_int32),
        ("outlives", ctypes.c_int32),
    )


class Errand(ctypes.Structure):
    """A call that may block, for a process of its own: ``struct errand``."""

    _fields_ = (
        ("source", ctypes.c_char_p),
        ("target", ctypes.c_char_p),
        ("type", ctypes.c_char_p),
        ("data", ctypes.c_char_p),
        ("directories", ctypes.POINTER(ctypes.c_char_p)),
        ("flags", ctypes.c_uint64),
        ("stack", ctypes.c_void_p),
        ("stack_bytes", ctypes.c_uint64),
        ("parent", ctypes.c_int32),
        ("error", ctypes.c_int32),
    )


class Range(ctypes.Structure):
    """Memory that forks share, and where in the file it is: ``struct range``."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
    )


def pointers(texts: Sequence[bytes]) -> Array[ctypes.c_char_p]:
    """Return what C calls ``char **``, ended by a NULL, or more of them."""
    return _array(len(texts) // _POINTERS_STEP + 1)(*texts)


@functools.cache
def _array(steps: int) -> type[Array[ctypes.c_char_p]]:
    """Return the type of an array of pointers: few of them, and they are kept.

    One that is made anew is a cycle of objects, for the collector to find.
    """
    return ctypes.c_char_p * (steps * _POINTERS_STEP)


def load(path: str) -> ctypes.CDLL | None:
    """Load the library at ``path``, if it is one of ours."""
    try:
        library = ctypes.CDLL(path)
        layout = ctypes.c_int32.in_dll(library, "dunnage_layout").value
    except (OSError, ValueError):
        return None
    if layout != _LAYOUT:
        return None
    library.dunnage_spawn.argtypes = (ctypes.POINTER(Order),)
    for name in ("dunnage_mount", "dunnage_unmount", "dunnage_rmdir"):
        getattr(library, name).argtypes = (ctypes.POINTER(Errand),)
    ranges = (ctypes.POINTER(Range), ctypes.c_size_t)
    library.dunnage_share.argtypes = (ctypes.c_int, *ranges)
    library.dunnage_share.restype = ctypes.c_int64
    library.dunnage_view.argtypes = (ctypes.c_int, ctypes.c_uint64)
    library.dunnage_view.restype = ctypes.c_int64
    library.dunnage_unview.argtypes = (ctypes.c_int64, ctypes.c_uint64)
    library.dunnage_unview.restype = None
    library.dunnage_immortalize.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.dunnage_immortalize.restype = ctypes.c_int64
    library.dunnage_give_back.argtypes = (
        *(ctypes.c_int, ctypes.c_int64, *ranges),
        ctypes.c_uint64,
    )
    library.dunnage_give_back.restype = ctypes.c_int64
    library.dunnage_populate.argtypes = (*ranges, ctypes.c_int)
    library.dunnage_populate.restype = None
    library.dunnage_thread_block.restype = ctypes.c_int64
    return library


library = load(os.path.join(os.path.dirname(__file__), _FILE))
"""None: do without."""
