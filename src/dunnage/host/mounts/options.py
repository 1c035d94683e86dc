"""The words of a mount's options, turned into what mount(2) takes.

Pure.
The words are those that containerd's snapshotters and clients use.
A word that is not among them is the file system's own, and goes into its data.
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final, NamedTuple

from dunnage.errors import DunnageError, InvalidArgument

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

_MANAGED: Final = "X-containerd."


class Special(NamedTuple):
    """What options want beyond a call of mount(2), and the words that are left."""

    words: tuple[str, ...]
    is_loop: bool = False
    """The source is a file, to be had as a block device."""
    uid_map: str = ""
    """Owners are others than on the disk: ``disk:here:size``, and more by commas."""
    gid_map: str = ""

    @property
    def is_any(self) -> bool:
        """Whether there is anything special."""
        return self.is_loop or self.is_mapped

    @property
    def is_mapped(self) -> bool:
        """Whether there are other owners."""
        return bool(self.uid_map or self.gid_map)


def take_special(words: Sequence[str]) -> Special:
    """Take out the words that are neither mount(2)'s nor a file system's."""
    is_loop = "loop" in words
    maps = {"uidmap": "", "gidmap": ""}
    rest = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in maps:
            maps[name] = value
        elif word != "loop":
            rest.append(word)
    return Special(tuple(rest), is_loop, maps["uidmap"], maps["gidmap"])


def parse_options(words: Sequence[str]) -> tuple[MountFlag, str]:
    """Return the flags and the data that the words mean; a later word wins.

    Raises:
        DunnageError: the kernel would cut the data.
        InvalidArgument: a word is the daemon's own, and should not have come here.
    """
    flags = _NOTHING
    data = []
    for word in words:
        if word in _SETS:
            flags |= _SETS[word]
        elif word in _CLEARS:
            flags &= ~_CLEARS[word]
        elif word.startswith(_MANAGED):
            raise InvalidArgument(f"mount option {word}")
        else:
            data.append(word)
    joined = ",".join(data)
    # The kernel ends what it reads with a zero of its own: a whole page would be cut.
    if len(joined.encode()) >= _PAGE_BYTES:
        raise DunnageError("mount options is too long")
    return flags, joined
