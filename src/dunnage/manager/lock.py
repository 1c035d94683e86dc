"""One manager at a time: whoever makes, removes or buries a task holds its lock.

Owns: what is locked, and that a lock of what was removed counts for nothing.

The lock is an flock on the task's work directory: it goes with its holder, however
that ends, and leaves no file behind.
The bundle itself is left to the shim's `delete`, which may lock it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from .bundles import Bundle
    from .places import Places

_POLL_S: Final = 0.05


@asynccontextmanager
async def locked(bundle: Bundle) -> AsyncIterator[bool]:
    """Hold a task's lock; yield whether the task is still there.

    It waits for as long as another manager is at it; cancelling it stops the wait.
    """
    while True:
        with maybe_locked(bundle) as is_there:
            if is_there is not None:
                yield is_there
                return
        await asyncio.sleep(_POLL_S)


@contextmanager
def maybe_locked(bundle: Bundle) -> Iterator[bool | None]:
    """Hold a task's lock, as `locked`; or yield None if another manager does."""
    if not bundle.path.is_dir():
        yield False
        return
    # A crash may have left a bundle without one.
    bundle.work.mkdir(parents=True, exist_ok=True)
    fd = os.open(bundle.work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield bundle.path.is_dir() and _is_at(fd, bundle.work)
    finally:
        os.close(fd)


@contextmanager
def places_locked(places: Places, *, exclusively: bool) -> Iterator[None]:
    """Keep others from making a bundle, or, not exclusively, from tidying up.

    It blocks; both take a moment only.
    """
    fd = os.open(places.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
