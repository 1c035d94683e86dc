"""Ending a cgroup: its processes, its children, itself; on v1 and v2.

Owns: the proof that a process that is killed is a member.
Must not know: whose cgroup it is.
It may block: not for an event loop.

Invariant (members-only): a process is killed through a pidfd, and only if it was still
    a member after that was opened: so a pid that was recycled meanwhile is safe.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Final

from . import paths

_KILL_LIMIT_S: Final = 2.0
_REMOVE_LIMIT_S: Final = 1.0
_PAUSE_S: Final = 0.01
# v1, v2; whichever is there. What is frozen does not die before it is thawed (v1).
_THAW: Final = (("freezer.state", b"THAWED"), ("cgroup.freeze", b"0"))


def members(directories: Sequence[str]) -> set[int]:
    """Return the pids in these cgroups and the cgroups in them.

    Processes that our pid namespace does not see are left out.
    """
    return {pid for top in directories for group in _tree(top) for pid in _procs(group)}


def join(path: str) -> None:
    """Move this process to a cgroup, in every hierarchy that has one at that path.

    Raises:
        OSError: none has, or the kernel refuses.
    """
    found = [top for top in paths.directories(path) if os.path.isdir(top)]
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    for top in found:
        fd = os.open(f"{top}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        except OSError as error:
            error.filename = top
            raise
        finally:
            os.close(fd)


def kill_members(directories: Sequence[str]) -> bool:
    """Kill all that is in these cgroups; return whether they are empty now."""
    limit = time.monotonic() + _KILL_LIMIT_S
    while pids := members(directories):
        if time.monotonic() > limit:
            return False
        _kill(pids, directories)
    return True


def remove(directories: Sequence[str]) -> list[str]:
    """Remove empty cgroups with the cgroups in them; return those that stay."""
    limit = time.monotonic() + _REMOVE_LIMIT_S
    while left := [top for top in directories if not _is_removed(top)]:
        # A process counts for a moment after its death.
        if time.monotonic() > limit:
            break
        time.sleep(_PAUSE_S)
    return left


def _kill(pids: set[int], directories: Sequence[str]) -> None:
    with contextlib.ExitStack() as stack:
        fds = {}
        for pid in pids:
            with contextlib.suppress(OSError):
                fds[pid] = os.pidfd_open(pid)
                stack.callback(os.close, fds[pid])
        proven = members(directories)
        deaths = select.poll()
        for pid, fd in fds.items():
            if pid in proven:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    deaths.register(fd, select.POLLIN)
        for top in directories:
            for group in _tree(top):
                _thaw(group)
        # One death is reason enough to look again.
        deaths.poll(_PAUSE_S * 1000)


def _thaw(group: str) -> None:
    for name, word in _THAW:
        with contextlib.suppress(OSError):
            # Not created: where the cgroup file system is hidden, runtimes make plain
            # directories.
            fd = os.open(f"{group}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, word)
            finally:
                os.close(fd)


def _is_removed(top: str) -> bool:
    with contextlib.suppress(OSError):
        os.rmdir(top)  # mostly there is none in it
        return True
    for group in _tree(top):
        with contextlib.suppress(OSError):
            os.rmdir(group)
    return not os.path.isdir(top)


def _tree(top: str) -> Iterator[str]:
    """Yield a cgroup and what is in it, the deepest first."""
    for group, _, _ in os.walk(top, topdown=False):
        yield group


def _procs(group: str) -> list[int]:
    try:
        with open(f"{group}/cgroup.procs", "rb") as file:
            return [pid for line in file if (pid := int(line)) > 0]
    except (OSError, ValueError):
        return []
