"""The words of a mount's options, turned into what mount(2) takes.

Pure.
The words are those that containerd's snapshotters and clients use.
A word that is not among them is the file system's own, and goes into its data.
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final

from dunnage.errors import DunnageError, Unimplemented

if TYPE_CHECKING:
    from collections.abc import Sequence

_PAGE_BYTES: Final = 4096  # the kernel reads no more of the data than this


class MountFlag(IntFlag):
    """mount(2)'s ``MS_`` flags, as in the kernel's ``linux/mount.h``."""

    RDONLY = 1
    NOSUID = 1 << 1
    NODEV = 1 << 2
    NOEXEC = 1 << 3
    SYNCHRONOUS = 1 << 4
    REMOUNT = 1 << 5
    MANDLOCK = 1 << 6
    DIRSYNC = 1 << 7
    NOATIME = 1 << 10
    NODIRATIME = 1 << 11
    BIND = 1 << 12
    REC = 1 << 14
    RELATIME = 1 << 21
    STRICTATIME = 1 << 24


_NOTHING: Final = MountFlag(0)

_SETS: Final = {
    "bind": MountFlag.BIND,
    "defaults": _NOTHING,
    "dirsync": MountFlag.DIRSYNC,
    "mand": MountFlag.MANDLOCK,
    "noatime": MountFlag.NOATIME,
    "nodev": MountFlag.NODEV,
    "nodiratime": MountFlag.NODIRATIME,
    "noexec": MountFlag.NOEXEC,
    "nosuid": MountFlag.NOSUID,
    "rbind": MountFlag.BIND | MountFlag.REC,
    "relatime": MountFlag.RELATIME,
    "remount": MountFlag.REMOUNT,
    "ro": MountFlag.RDONLY,
    "strictatime": MountFlag.STRICTATIME,
    "sync": MountFlag.SYNCHRONOUS,
}

_CLEARS: Final = {
    "async": MountFlag.SYNCHRONOUS,
    "atime": MountFlag.NOATIME,
    "dev": MountFlag.NODEV,
    "diratime": MountFlag.NODIRATIME,
    "exec": MountFlag.NOEXEC,
    "nomand": MountFlag.MANDLOCK,
    "norelatime": MountFlag.RELATIME,
    "nostrictatime": MountFlag.STRICTATIME,
    "rw": MountFlag.RDONLY,
    "suid": MountFlag.NOSUID,
}

_LATER: Final = ("uidmap=", "gidmap=", "X-containerd.")


def parse_options(words: Sequence[str]) -> tuple[MountFlag, str]:
    """Return the flags and the data that the words mean; a later word wins."""
    flags = _NOTHING
    data = []
    for word in words:
        if word in _SETS:
            flags |= _SETS[word]
        elif word in _CLEARS:
            flags &= ~_CLEARS[word]
        elif word == "loop" or word.startswith(_LATER):
            raise Unimplemented(f"mount option {word}")
        else:
            data.append(word)
    joined = ",".join(data)
    # The kernel ends what it reads with a zero of its own: a whole page would be cut.
    if len(joined.encode()) >= _PAGE_BYTES:
        raise DunnageError("mount options is too long")
    return flags, joined
