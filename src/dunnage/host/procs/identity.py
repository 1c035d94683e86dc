"""Which process a pid stands for: a pid alone is no proof, as pids are used again.

Owns: what tells one process from another with the same pid.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple, Self

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
# Counted after the command's name, which may hold anything (proc(5)).
_STATE, _GROUP, _FLAGS, _STARTED = 0, 2, 6, 19
_EXITING: Final = 4
"""PF_EXITING: set before a process that ends lets go of what it has open."""


class Identity(NamedTuple):
    """One process of all that ever were."""

    pid: int
    started: int
    """In clock ticks since the boot."""
    boot_id: str

    @classmethod
    def mine(cls) -> Self:
        """Return our own.

        Raises:
            OSError: /proc is not there.
        """
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return that of the process which has this pid now.

        Raises:
            OSError: there is none.
        """
        return cls(pid, int(_stat(pid)[_STARTED]), _boot_id())

    @classmethod
    def noted(cls, pid: int, started: int) -> Self:
        """Return that of which somebody has noted this since the boot.

        Raises:
            OSError: /proc is not there.
        """
        return cls(pid, started, _boot_id())

    def is_of_this_boot(self) -> bool:
        """Tell whether it can live still."""
        return self.boot_id == _boot_id()

    def is_alive(self) -> bool:
        """Tell whether the process is there, and no zombie."""
        try:
            fields = _stat(self.pid)
        except OSError:
            return False
        same = int(fields[_STARTED]) == self.started and self.is_of_this_boot()
        return same and fields[_STATE] not in {"Z", "X"}


def group_of(pid: int) -> int:
    """Return the process group of a process.

    Raises:
        OSError: it is gone.
    """
    return int(_stat(pid)[_GROUP])


def is_ending(pid: int) -> bool:
    """Tell whether a process has ended, or has nothing left to do but that."""
    try:
        return bool(int(_stat(pid)[_FLAGS]) & _EXITING)
    except OSError:
        return True


def _stat(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].decode("ascii").split()


def _boot_id() -> str:
    with open(_BOOT_ID, "rb") as file:
        return file.read().decode("ascii").strip()
