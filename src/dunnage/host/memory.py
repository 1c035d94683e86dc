"""Memory that forks share, and what a fork can give back of its copies.

A fork copies the page tables of all private memory at once, and a page of it at the
first write, by either side, for good.
Here the parent's memory is moved into a sealed file in memory before the first fork
(`share`): a fork then has nothing to copy for it.
A write to a count of references that goes up and down again leaves a page as it was:
such copies are found by comparing, and dropped (`give_back`).

Which pages a fork will look at and write to can be learnt from another (`touched`); one
that waits for work maps and copies them before there is any (`Ahead`).
What then still differs from the original is alike in many forks: where the host's KSM
runs, the kernel may keep it once (`merge_equal`).

None of it changes what anybody reads; ``native/memory.c`` says why that is so.
Where the library was not built, or a kernel refuses, everything stays as it is.

Owns: which memory is shared.
Must not know: whose it is, and when it is at rest.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from . import native
from .procs.prctl import prctl

_PAGE: Final = mmap.PAGESIZE
_BLOCK_BYTES: Final = 8192
"""So much around a thread's control block is left alone: the kernel writes to it."""
_KINDS: Final = frozenset({"", "[heap]"})
_OWN: Final = "rw-p"
_MADV_POPULATE_READ: Final = 22
_MADV_POPULATE_WRITE: Final = 23
_ADVICE: Final = (_MADV_POPULATE_READ, _MADV_POPULATE_WRITE)
_TOUCHED: Final = struct.Struct("=QQQ")
"""Start, end and what to do with it."""
_PART_BYTES: Final = 64 * _PAGE
"""So much is copied in some 0.1 ms, the longest that a caller waits for it."""
_ENTRY: Final = struct.Struct("=Q")
# Of an entry of the page map (proc(5)): present, of a file, and mapped by us alone.
_PRESENT, _IN_FILE, _ALONE = 1 << 63, 1 << 61, 1 << 56
_KIND: Final = _PRESENT | _IN_FILE | _ALONE
_OWN_COPY: Final = _PRESENT | _ALONE
_KSM: Final = "/sys/kernel/mm/ksm/run"
_PR_SET_MEMORY_MERGE: Final = 67
_libc = ctypes.PyDLL(None)


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


class Shared(NamedTuple):
    """The memory that was shared, in the process that did it and in its forks."""

    view: int
    """Where the whole file is mapped for reading."""
    ranges: ctypes.Array[native.Range]

    @property
    def size(self) -> int:
        """How much it is, in bytes."""
        return sum(each.end - each.start for each in self.ranges)


_shared: list[Shared] = []


def share() -> int:
    """Move this process's private memory into a file; return how much: 0 if it failed.

    To be called when everything is imported and warm, before the first fork, by a
    process of one thread whose memory nobody shares.
    Called again, a new file takes the place of the old one: forks of before keep that.
    What the kernel shows of this process (`procs.title`) has to be set anew: it shows
    no file's content.
    """
    if native.library is None or len(os.listdir("/proc/self/task")) != 1:
        return 0
    try:
        fd = os.memfd_create("dunnage", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return 0
    try:
        shared = _share(native.library, fd)
    except OSError:
        return 0
    finally:
        os.close(fd)
    for before in _shared:
        native.library.dunnage_unview(before.view, before.size)
    _shared[:] = [shared]
    return shared.size


def give_back() -> GivenBack | None:
    """Drop the copies that are as the original; None if nothing could be done.

    It takes a few milliseconds, in which signals wait.
    For a process of one thread, while nobody shares its memory.
    """
    if native.library is None or not _shared:
        return None
    view, ranges = _shared[0]
    try:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pages = native.library.dunnage_give_back(
            pagemap, view, ranges, len(ranges), _PAGE
        )
    finally:
        os.close(pagemap)
    if pages < 0:
        return None
    return GivenBack((pages >> 32) * _PAGE, (pages & 0xFFFFFFFF) * _PAGE)


def touched() -> bytes:
    """Tell which pages this process has touched of shared memory, and of programs.

    A fork has none of the latter's pages at first, either. For `Ahead`.
    """
    found: list[int] = []
    places = [(each.start, each.end) for each in _shared[0].ranges] if _shared else []
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        places += [(each.start, each.end) for each in parsed(maps) if _is_program(each)]
    for start, end in places:
        for address, entry in _page_map(start, end):
            if entry & _PRESENT:
                advice = _ADVICE[entry & _KIND == _OWN_COPY]
                if found and found[-2:] == [address, advice]:
                    found[-2] += _PAGE
                else:
                    found += (address, address + _PAGE, advice)
    return struct.pack(f"={len(found)}Q", *found)


class Ahead:
    """What a fork may do before it is wanted.

    Args:
        pages: that a fork will need, as another's `touched`.
    """

    def __init__(self, pages: bytes) -> None:
        self._parts: list[tuple[ctypes.Array[native.Range], int]] = []
        for advice in _ADVICE:
            found = (
                (part, min(part + _PART_BYTES, end))
                for start, end, which in _TOUCHED.iter_unpack(pages)
                if which == advice
                for part in range(start, end, _PART_BYTES)
            )
            self._parts += [(part, advice) for part in _portions(found)]

    def copy(self, is_wanted: Callable[[], bool]) -> None:
        """Map and copy the pages, until the fork is wanted.

        It costs what the faults would cost; Linux 5.14 and later.
        """
        if native.library is None:
            return
        for ranges, advice in self._parts:
            if is_wanted():
                return
            native.library.dunnage_populate(ranges, len(ranges), advice)


def trim() -> None:
    """Drop what the interpreter and libc keep in hand.

    The cache of types' attributes holds on to names: emptied in the parent and in its
    forks, their counts are the same.
    """
    sys._clear_type_cache()  # noqa: SLF001  # its documented use, until 3.13
    _libc.malloc_trim(0)


def merge_equal(setting: str = _KSM) -> bool:
    """Let the kernel merge this process's pages with equal ones; return whether it may.

    Only where the host's administrator has KSM run, as it costs the kernel's time, and
    the time of a write tells whether somebody else has the same page.
    Linux 6.4 and later (PR_SET_MEMORY_MERGE).
    """
    try:
        with open(setting, "rb") as file:
            if file.read().strip() != b"1":
                return False
        prctl(_PR_SET_MEMORY_MERGE, 1)
    except OSError:
        return False
    return True


def _is_program(mapping: Mapping) -> bool:
    """Whether it is code or constants; shared memory is written to, or a view of it."""
    is_file = mapping.inode and not mapping.name.startswith("/memfd:")
    return bool(is_file) and mapping.permissions in {"r-xp", "r--p"}


def _page_map(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield each page's address with its entry in /proc/self/pagemap."""
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(start // _PAGE * _ENTRY.size)
        entries = file.read((end - start) // _PAGE * _ENTRY.size)
    for number, (entry,) in enumerate(_ENTRY.iter_unpack(entries)):
        yield start + number * _PAGE, entry


def _portions(
    places: Iterable[tuple[int, int]],
) -> Iterator[ctypes.Array[native.Range]]:
    """Gather ranges into portions of so much, each range being at most that."""
    portion: list[native.Range] = []
    size = 0
    for start, end in places:
        portion.append(native.Range(start, end))
        size += end - start
        if size >= _PART_BYTES:
            yield (native.Range * len(portion))(*portion)
            portion, size = [], 0
    yield (native.Range * len(portion))(*portion)


def _share(library: ctypes.CDLL, fd: int) -> Shared:
    """Fill the file, and map it.

    Raises:
        OSError: the kernel refuses.
    """
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        mappings = list(parsed(maps))
    places = list(shareable(mappings, library.dunnage_thread_block()))
    ranges = (native.Range * len(places))()
    size = 0
    for each, (start, end) in zip(ranges, places, strict=True):
        each.start, each.end, each.offset = start, end, size
        size += end - start
    os.ftruncate(fd, size)
    view = library.dunnage_view(fd, size)
    if view < 0:
        raise OSError(-view, os.strerror(-view))
    result = library.dunnage_share(fd, ranges, len(ranges))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return Shared(view, ranges)


def shareable(
    mappings: Iterable[Mapping], thread_block: int
) -> Iterator[tuple[int, int]]:
    """Yield start and end of what may be shared: own, writable memory, but no stack.

    What the kernel writes to by itself is around the thread's control block.
    """
    low = (thread_block - _BLOCK_BYTES) // _PAGE * _PAGE
    high = (thread_block + _BLOCK_BYTES) // _PAGE * _PAGE + _PAGE
    for mapping in mappings:
        is_data = mapping.inode or mapping.name in _KINDS
        if mapping.permissions != _OWN or not is_data:
            continue
        before = mapping.start, min(mapping.end, low)
        after = max(mapping.start, high), mapping.end
        yield from (each for each in (before, after) if each[0] < each[1])


def parsed(lines: Iterable[str]) -> Iterator[Mapping]:
    """Read /proc/PID/maps."""
    for line in lines:
        fields = line.split(maxsplit=5)
        start, _, end = fields[0].partition("-")
        name = fields[5].strip() if len(fields) > 5 else ""
        yield Mapping(int(start, 16), int(end, 16), fields[1], int(fields[4]), name)
