"""OOM kills in a cgroup: that there was one more; on v1 and v2.

Owns: the two descriptors with which a cgroup is watched.
Must not know: whose cgroup it is.

The kernel counts a kill before it sends the signal: whoever looks when a process has
died learns of the kill first, however late the news of it may be.
What v1 calls news comes *before* the kill, so we look a few times more.
It comes to every cgroup below the one that is full, and at the removal of one, and
then nothing is counted: a kill is what was counted, in the cgroup of its victim.
On v1 that is not counted in those above as well, so those below are looked at too.
v2's news follow the count, by 10 ms at times. systemd removes a scope as soon as nobody
is left in it, and with it what was counted: who looks later than at the death itself
may find nothing.

Invariant (oom-before-exit): a kill is told by the first look after it was counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from . import formats

_Counts = Mapping[int, int]
"""Kills by cgroup: by the number of its directory."""

_COUNT: Final = "oom_kill"
_V1: Final = "memory.oom_control"
_V1_REGISTER: Final = "cgroup.event_control"
_V2: Final = "memory.events"
_MOST_BYTES: Final = 4096
_LATER_S: Final = (0.002, 0.01, 0.05, 0.2, 1.0, 5.0)
"""When to look again after news that came before the kill, which may take its time."""
_LEAF_LINKS: Final = 2
_ITSELF: Final = 0
_GONE: Final = frozenset({errno.ENOENT, errno.ENODEV})


class OomKills:
    """The OOM kills in a cgroup; none as long as none is watched."""

    def __init__(self) -> None:
        self._source: _Source | None = None
        self._seen: _Counts = {}
        self._hear: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, directories: Mapping[str, str], *, is_new: bool) -> None:
        """Open what is needed; nothing is told before `listen`.

        Args:
            directories: those of the cgroup, by controller, as `of_process` gives them.
            is_new: all kills that were counted are news.

        Raises:
            OSError: there is no memory controller here, or a descriptor is wanting.
        """
        if v1 := directories.get("memory"):
            source: _Source = _Source1(v1)
        elif v2 := directories.get(""):
            source = _Source2(v2)
        else:
            raise FileNotFoundError("no cgroup of the memory controller")
        try:
            self._seen = {} if is_new else source.counts()
        except BaseException:
            source.close()
            raise
        self._source = source

    def listen(self, hear: Callable[[], None]) -> None:
        """Call ``hear`` when there are new kills, however many; now, if there were."""
        if self._source is None:
            return
        self._hear = hear
        if self._source.news >= 0:
            asyncio.get_running_loop().add_reader(self._source.news, self._on_news)
        self.look()

    def look(self) -> None:
        """Tell now what is to be told."""
        if self._source is None or self._hear is None:
            return
        try:
            counts = self._source.counts()
        except OSError as error:
            # Or else a descriptor is wanting for a cgroup below: the next look tells.
            if error.errno in _GONE:
                self.close()
            return
        has_grown = any(n > self._seen.get(each, 0) for each, n in counts.items())
        self._seen = counts
        if has_grown:
            self._hear()

    def close(self) -> None:
        """Watch no longer; idempotent."""
        self._cancel()
        source, self._source = self._source, None
        if source is not None:
            if self._hear is not None and source.news >= 0:
                asyncio.get_running_loop().remove_reader(source.news)
            source.close()
        self._hear = None

    def _on_news(self) -> None:
        self.look()
        if self._source is not None and self._source.is_early:
            self._look_later(iter(_LATER_S))

    def _look_later(self, delays: Iterator[float]) -> None:
        self._cancel()
        if (delay := next(delays, None)) is not None and self._source is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay, self._look_again, delays)

    def _look_again(self, delays: Iterator[float]) -> None:
        self.look()
        self._look_later(delays)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Source(Protocol):
    """The kernel's counters, and what is readable when they have changed."""

    news: int
    is_early: bool

    def counts(self) -> _Counts:
        """Return the kills so far; the news are taken.

        Raises:
            OSError: the cgroup is gone.
        """

    def close(self) -> None:
        """Let go of the descriptors."""


class _Source1:
    """v1: ``memory.oom_control``, and an eventfd that is registered for it."""

    is_early = True

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._told = 0
        self.news = -1
        self._file = _open(f"{directory}/{_V1}")
        try:
            self.news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            # A kernel for real time has no such file: then there are only looks.
            with contextlib.suppress(FileNotFoundError):
                register = _open(f"{directory}/{_V1_REGISTER}", os.O_WRONLY)
                try:
                    os.write(register, b"%d %d" % (self.news, self._file))
                finally:
                    os.close(register)
        except BaseException:
            self.close()
            raise

    def counts(self) -> _Counts:
        itself = _count(os.pread(self._file, _MOST_BYTES, 0))
        with contextlib.suppress(BlockingIOError):
            self._told += os.eventfd_read(self.news)
        if itself is None:  # before Linux 4.13
            return {_ITSELF: self._told}
        counts = {_ITSELF: itself}
        if os.stat(self._directory).st_nlink > _LEAF_LINKS:
            counts.update(_below(self._directory))
        return counts

    def close(self) -> None:
        os.close(self._file)
        if self.news >= 0:
            os.close(self.news)


class _Source2:
    """v2: ``memory.events``, which epoll calls urgent when it has changed.

    The file can be read at all times, so it has an epoll of its own. (inotify would do,
    but a user has few of them: 128.)
    """

    is_early = False

    def __init__(self, directory: str) -> None:
        self._file = _open(f"{directory}/{_V2}")
        try:
            self._epoll = select.epoll()
            self._epoll.register(self._file, select.EPOLLPRI)
        except BaseException:
            os.close(self._file)
            raise
        self.news = self._epoll.fileno()

    def counts(self) -> _Counts:
        return {_ITSELF: _count(os.pread(self._file, _MOST_BYTES, 0)) or 0}

    def close(self) -> None:
        self._epoll.close()
        os.close(self._file)


def _below(top: str) -> Iterator[tuple[int, int]]:
    """Yield the kills in each cgroup below one; it may go meanwhile."""
    with os.scandir(top) as entries:
        within = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    for entry in within:
        try:
            fd = _open(f"{entry.path}/{_V1}")
            try:
                count = _count(os.read(fd, _MOST_BYTES))
            finally:
                os.close(fd)
            yield entry.inode(), count or 0
            yield from _below(entry.path)
        except OSError as error:
            if error.errno not in _GONE:
                raise


def _count(data: bytes) -> int | None:
    return formats.flat(data).get(_COUNT)


def _open(path: str, flags: int = os.O_RDONLY) -> int:
    return os.open(path, flags | os.O_CLOEXEC)
