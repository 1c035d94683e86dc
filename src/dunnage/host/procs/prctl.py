"""prctl(2), which Python does not offer."""

from __future__ import annotations

import ctypes
import os
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SCHED_CORE: Final = 62
_SCHED_CORE_CREATE: Final = 1
_SCOPE_PROCESS_GROUP: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> None:
    """Make the system call, with numbers and addresses; those not given are 0.

    Raises:
        OSError: the kernel refused.
    """
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *words) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def set_child_subreaper() -> None:
    """Let orphaned descendants fall to this process, not to pid 1."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(signum: int) -> None:
    """Have the kernel send ``signum`` here when the thread that forked us ends."""
    prctl(PR_SET_PDEATHSIG, signum)


def share_no_core() -> None:
    """Let no process run on our cores' other threads that does not descend from us.

    Nor from a member of our process group.

    Raises:
        OSError: the kernel has no core scheduling, or the processor no such threads.
    """
    prctl(PR_SCHED_CORE, _SCHED_CORE_CREATE, 0, _SCOPE_PROCESS_GROUP)
