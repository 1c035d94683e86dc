"""What a runtime has noted before the machine was booted: of nobody that lives.

On a tmpfs a reboot takes the notes away. On a disk they stay: then the runtime says
that the id is taken, and, asked to delete it by force, may take a stranger for the
container, as one boot gives out the pids of the last one at nearly the same ticks.

Owns: the proof, and the removal.

Invariant (of-no-boot-but-this): notes that were written before the boot are removed
    without asking the runtime, and nothing is killed for them; notes are not removed
    while a process is in a cgroup that they name, or, if they name none, while theirs
    is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator

from dunnage.host import cgroups

from . import notes


def drop(state: str, *, is_of_another_boot: bool = False) -> bool:
    """Remove the notes of a container that was before the boot; whether it was.

    Others may do the same: no create begins while it is not decided.

    Args:
        state: the directory of the notes.
        is_of_another_boot: it is known that the container was of another boot; then
            only another container of that id, which lives, keeps the notes.
    """
    if not os.path.lexists(state):
        return False
    with _alone(os.path.dirname(state)):
        if not _is_stale(state, is_of_another_boot=is_of_another_boot):
            return False
        shutil.rmtree(state, ignore_errors=True)
        return not os.path.lexists(state)


def _is_stale(state: str, *, is_of_another_boot: bool) -> bool:
    try:
        is_older = _newest_ns(state) < _booted_ns()
        if not is_older and not is_of_another_boot:
            return False
        noted = notes.look(state)
    except (OSError, LookupError, TypeError, AttributeError, RecursionError):
        return False
    if noted.init is None:
        return is_older
    if cgroups.members(noted.cgroups):
        return False
    # What is older is not believed the pid of its init. But a clock that was set
    # forward makes all that was before look so: only a cgroup proves that it is empty.
    return (is_older and bool(noted.cgroups)) or not noted.init.is_alive()


def _newest_ns(state: str) -> int:
    """Return when something was last written there."""
    with os.scandir(state) as entries:
        times = [entry.stat(follow_symlinks=False).st_mtime_ns for entry in entries]
    return max([os.stat(state).st_mtime_ns, *times])


def _booted_ns() -> int:
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@contextlib.contextmanager
def _alone(root: str) -> Iterator[None]:
    """Hold the directory of all notes: what is removed is what was looked at."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
