"""Working only while a processor has nothing else to do: SCHED_IDLE, of sched(7)."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from . import rawfork

_ANY: Final = os.sched_param(0)


def is_possible() -> bool:
    """Whether a process of ours could begin it and end it again; tried in a child.

    Those without rights may do the one and not the other. For a process with one
    thread.
    """
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    try:
        pid = rawfork.fork()
    except OSError:
        return False
    if pid == 0:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, _ANY)
            os.sched_setscheduler(0, os.SCHED_OTHER, _ANY)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return status == 0


def begin(pid: int = 0) -> None:
    """Have a process work idly, where that `is_possible`; it may have ended."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_IDLE, _ANY)


def end(pid: int = 0) -> None:
    """Have a process work as usual again; it may have ended."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_OTHER, _ANY)
