"""Attaching processes to cgroups, made quick before a runtime does it.

Whoever attaches a process waits for a grace period of the kernel's RCU, which takes some
10 ms: more than all else that a runtime does for an exec. But who comes soon after
another does not, as the kernel is ready for it then (the semaphore that keeps processes
from forking meanwhile, ``kernel/cgroup/cgroup.c`` and ``kernel/rcu/sync.c``).

So as soon as a runtime will be called, a process of ours attaches itself to the cgroup
where it is already, and again every few milliseconds for a while: nothing changes, and
the kernel is ready when the runtime comes.

Where that cannot be done nothing happens, and a runtime waits as it does under any shim.

Invariant (one-at-a-time): the process works in memory that is ours; a next one is begun
only when the kernel has said that the last one needs it no more.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from dunnage.host import native

from . import paths

_TURNS: Final = 10
"""How often, 3 ms apart: from the call of `start` until the runtime attaches init."""
_STACK_BYTES: Final = 8 << 10
_NOWHERE: Final = b"/nonexistent"

_stack: Final = ctypes.create_string_buffer(_STACK_BYTES)
_errand: Final = native.Errand(
    stack=ctypes.addressof(_stack), stack_bytes=_STACK_BYTES
)


def prepare() -> None:
    """Find our cgroup; to be done again when we are in another."""
    try:
        place = paths.own()
    except OSError:
        place = None
    _errand.target = os.fsencode(f"{place}/cgroup.procs") if place else _NOWHERE


def expect() -> None:
    """Make it quick for a while: a runtime will attach a process soon."""
    if native.library is None:
        return
    if not _errand.target:
        prepare()
    _errand.flags = _TURNS
    if not is_at_work():
        native.library.dunnage_attach(_errand)


def is_at_work() -> bool:
    """Whether a process shares our memory for it, now."""
    return bool(_errand.tid)
