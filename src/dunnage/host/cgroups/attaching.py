"""Attaching processes to cgroups, made quick before a runtime does it.

Whoever attaches a process waits for a grace period of the kernel's RCU, which takes
some 10 ms: more than all else that a runtime does for an exec. But who comes soon after
another does not, as the kernel is ready for it then (the semaphore that keeps processes
from forking meanwhile, ``kernel/cgroup/cgroup.c`` and ``kernel/rcu/sync.c``).

So there is a process that attaches itself to the cgroup where it is already, when it is
told that a runtime will be called, and again every few milliseconds for a while:
nothing changes, and the kernel is ready when the runtime comes.
It is forked once, by the parent of all who tell it.

Where there is none nothing happens, and a runtime waits as under any shim.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import Final, NoReturn

from dunnage.host.procs import rawfork
from dunnage.host.procs.prctl import set_parent_death_signal
from dunnage.host.procs.title import set_title

from . import paths

NAME: Final = b"dunnage-attacher"
TURNS: Final = 10
"""So often: from the call of `start` until a runtime attaches init."""
_PAUSE_S: Final = 0.003

_telling: list[int] = []
"""The pipe to the process, if there is one."""


def begin(title: str, unwanted: Iterable[int] = ()) -> int:
    """Fork the process; return its pid, or 0 if it cannot be had. It dies with us.

    For a process with one thread. Who is forked from us later can tell it, too.

    Args:
        title: what it shows beside its name.
        unwanted: descriptors that it is not to hold.
    """
    receiving = sending = pid = 0
    try:
        place = paths.own()
        receiving, sending = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(sending, False)
        parent = os.getpid()
        pid = rawfork.fork()
        if pid == 0:
            _attach(
                f"{place}/cgroup.procs", receiving, title, parent, [*unwanted, sending]
            )
        os.close(receiving)
    except OSError:
        for fd in {receiving, sending} - {0}:
            os.close(fd)
        return 0
    _telling[:] = [sending]
    return pid


def expect() -> None:
    """Make it quick for a while: a runtime will attach a process soon."""
    for fd in _telling:
        with contextlib.suppress(OSError):  # it is gone, or was told often enough
            os.write(fd, b"x")


def _attach(
    procs: str, receiving: int, title: str, parent: int, unwanted: Iterable[int]
) -> NoReturn:
    try:
        set_parent_death_signal(signal.SIGKILL)
        for fd in unwanted:
            os.close(fd)
        set_title([NAME, os.fsencode(title)])
        fd = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
        while os.getppid() == parent and os.read(receiving, 4096):
            for _ in range(TURNS):
                # Who is refused has waited before.
                with contextlib.suppress(OSError):
                    os.write(fd, b"0")
                time.sleep(_PAUSE_S)
    finally:
        os._exit(0)
