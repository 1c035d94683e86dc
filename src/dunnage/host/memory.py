"""Memory that forks share, and what a fork can give back of its copies.

A fork copies the page tables of all private memory at once, and a page of it at the
first write, by either side, for good.
Here the parent's memory is moved into a sealed file in memory before the first fork
(`share`): a fork then has nothing to copy for it.
A write to a count of references that goes up and down again leaves a page as it was:
such copies are found by comparing, and dropped (`Shared.give_back`).

Neither changes what anybody reads there; ``native/memory.c`` says why that is so.
Where the library was not built, or a kernel refuses, everything stays as it is.

Owns: which memory is shared.
Must not know: whose it is, and when it is at rest.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_FILE: Final = "libmemory.so"
_PAGE: Final = mmap.PAGESIZE
_BLOCK_BYTES: Final = 8192
"""So much around a thread's control block is left alone: the kernel writes to it."""
_KINDS: Final = frozenset({"", "[heap]"})
_OWN: Final = "rw-p"


class GivenBack(NamedTuple):
    """What became of the copies that a process had of shared memory, in bytes."""

    copied: int
    given_back: int


class Mapping(NamedTuple):
    """A line of /proc/PID/maps, as far as it matters here."""

    start: int
    end: int
    permissions: str
    inode: int
    name: str


class _Range(ctypes.Structure):
    """``struct range``."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
    )


class Shared:
    """The memory that was shared, in the process that did it and in its forks."""

    def __init__(
        self,
        library: ctypes.PyDLL,
        view: int,
        ranges: ctypes.Array[_Range],
    ) -> None:
        self._give_back = library.dunnage_give_back
        self._view = view
        self._ranges = ranges

    @property
    def shared_bytes(self) -> int:
        """How much memory it is."""
        return sum(each.end - each.start for each in self._ranges)

    def give_back(self) -> GivenBack | None:
        """Drop the copies that are as the original; None if nothing could be done.

        It takes a few milliseconds, in which signals wait.
        The process must have one thread, and nobody may share its memory.
        """
        try:
            pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            pages = self._give_back(
                pagemap, self._view, self._ranges, len(self._ranges), _PAGE
            )
        finally:
            os.close(pagemap)
        if pages < 0:
            return None
        return GivenBack((pages >> 32) * _PAGE, (pages & 0xFFFFFFFF) * _PAGE)


def load(path: str) -> ctypes.PyDLL | None:
    """Load the library at ``path``, if it is there."""
    try:
        # Without letting go of the interpreter: nothing runs beside it.
        library = ctypes.PyDLL(path)
        library.dunnage_share.restype = ctypes.c_long
        library.dunnage_share.argtypes = (
            ctypes.c_int,
            ctypes.POINTER(_Range),
            ctypes.c_size_t,
        )
        library.dunnage_give_back.restype = ctypes.c_int64
        library.dunnage_give_back.argtypes = (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.POINTER(_Range),
            ctypes.c_size_t,
            ctypes.c_uint64,
        )
        library.dunnage_thread_block.restype = ctypes.c_uint64
        library.dunnage_thread_block.argtypes = ()
    except (OSError, AttributeError):
        return None
    return library


_library: Final = load(os.path.join(os.path.dirname(__file__), _FILE))


def share() -> Shared | None:
    """Move this process's private memory into a file; None if it could not be done.

    To be called when everything is imported and warm, before the first fork, in a
    process of one thread whose memory nobody shares.
    """
    if _library is None or len(os.listdir("/proc/self/task")) != 1:
        return None
    try:
        fd = os.memfd_create("dunnage", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        return _share(_library, fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def _share(library: ctypes.PyDLL, fd: int) -> Shared | None:
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        mappings = list(_parsed(maps))
    block = library.dunnage_thread_block()
    ranges = list(shareable(mappings, block))
    table = (_Range * len(ranges))()
    size = 0
    for entry, (start, end) in zip(table, ranges, strict=True):
        entry.start, entry.end, entry.offset = start, end, size
        size += end - start
    os.ftruncate(fd, size)
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    # Private, as not every kernel maps a sealed file otherwise, for reading either.
    view = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
    if view in {None, ctypes.c_void_p(-1).value}:
        return None
    shared = Shared(library, view, table)
    if library.dunnage_share(fd, table, len(table)) != 0:
        return None
    return shared


def shareable(
    mappings: Iterable[Mapping], thread_block: int
) -> Iterator[tuple[int, int]]:
    """Yield start and end of what may be shared: own, writable, of no file, no stack.

    What the kernel writes to by itself is around the thread's control block.
    """
    low = (thread_block - _BLOCK_BYTES) // _PAGE * _PAGE
    high = (thread_block + _BLOCK_BYTES) // _PAGE * _PAGE + _PAGE
    for mapping in mappings:
        if mapping.permissions != _OWN or not _is_ours(mapping):
            continue
        for start, end in (
            (mapping.start, min(mapping.end, low)),
            (max(mapping.start, high), mapping.end),
        ):
            if start < end:
                yield start, end
        if mapping.end <= low or mapping.start >= high:
            continue


def _is_ours(mapping: Mapping) -> bool:
    return mapping.name in _KINDS


def _parsed(lines: Iterable[str]) -> Iterator[Mapping]:
    for line in lines:
        fields = line.split(maxsplit=5)
        start, _, end = fields[0].partition("-")
        name = fields[5].strip() if len(fields) > 5 else ""
        yield Mapping(int(start, 16), int(end, 16), fields[1], int(fields[4]), name)
