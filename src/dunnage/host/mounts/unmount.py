"""Unmounting, all of it or a clear error.

Owns: in which order mounts come off, and how long a busy one is waited for.
Must not know: who mounted them.
It may block: not for an event loop.

Never lazily: a mount that was only hidden would let whoever removes the directory next
believe that it is empty, or keep a disk busy behind everybody's back.
A file system by FUSE is no exception: fusermount is for those who may not unmount, and
asks a server that may hang.

Invariant (mounts-undone): when `unmount_recursive` returns, nothing is mounted at or
under its path.
"""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path
from typing import Final

from dunnage.errors import DunnageError

from . import syscalls

_TRIES: Final = 50
_PAUSE_S: Final = 0.05
# Beside the busy: what another mount hides, or somebody else unmounted meanwhile.
_PASSING: Final = frozenset({errno.EBUSY, errno.EINVAL, errno.ENOENT})
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def is_mount_point(path: str) -> bool:
    """Tell whether something is mounted on ``path`` in our mount namespace."""
    return os.path.realpath(path) in mount_points()


def unmount_recursive(path: str) -> None:
    """Unmount everything at and under ``path``, the deepest first.

    A path at which there is nothing, or nothing mounted, is no error.
    """
    top = os.path.realpath(path)
    tries = 0
    while points := _mount_points_under(top):
        failures = [failure for point in points if (failure := _try(point))]
        if len(failures) < len(points):
            # What came off may have hidden others, or kept them busy.
            tries = 0
        else:
            tries += 1
            _pause(failures, tries)


def unmount(path: str) -> None:
    """Unmount what is on top at ``path``, waiting a while for it if it is busy."""
    tries = 0
    while failure := _try(path):
        tries += 1
        _pause([failure], tries)


def _try(path: str) -> OSError | None:
    try:
        syscalls.umount(path)
    except OSError as error:
        return error
    return None


def _pause(failures: list[OSError], tries: int) -> None:
    """Give the failures time to pass, unless they had enough of it."""
    passing = [failure for failure in failures if failure.errno in _PASSING]
    if passing and tries < _TRIES:
        time.sleep(_PAUSE_S)
        return
    failures.sort(key=lambda failure: failure.errno != errno.EBUSY)
    raise DunnageError(
        f"failed to unmount {failures[0].filename}: {syscalls.said(failures[0])}"
    ) from failures[0]


def _mount_points_under(top: str) -> list[str]:
    """Return the mount points at and under ``top``, stacked ones repeatedly.

    The deepest come first.
    """
    inside = top.rstrip("/") + "/"
    points = [p for p in mount_points() if p == top or p.startswith(inside)]
    return sorted(points, key=lambda point: (-point.count("/"), point))


def mount_points() -> list[str]:
    """Return every mount point of our mount namespace, from /proc/self/mountinfo."""
    table = Path("/proc/self/mountinfo").read_bytes()
    return [
        # Blanks, backslashes and line ends are written as three octal digits.
        _ESCAPED.sub(lambda match: chr(int(match[1], 8)), os.fsdecode(fields[4]))
        for line in table.split(b"\n")
        if len(fields := line.split(b" ")) > 4
    ]
