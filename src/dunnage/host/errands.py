"""Kernel calls that may block, in a process that shares our memory.

Where the library was not built, its caller forks instead (`Children.call`).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import TYPE_CHECKING, Final

from dunnage.errors import Internal

if TYPE_CHECKING:
    from collections.abc import Callable

    from dunnage.host import native
    from dunnage.host.procs import Children

_STACK_BYTES: Final = 16 << 10
_Stack: Final = ctypes.c_char * _STACK_BYTES
# Made once: each such type is a cycle of objects, and `cast` would make one, too.


async def run(
    children: Children, begin: Callable[[native.Errand], int], call: native.Errand
) -> int:
    """Run ``call`` and return the errno that it ended with, or 0.

    Args:
        children: whose child the process is.
        begin: one of the library's functions.
        call: what that is given.

    Raises:
        Internal: the process was killed.
        OSError: no process can be had.
    """
    stack = _Stack()
    call.stack = ctypes.addressof(stack)
    call.stack_bytes = _STACK_BYTES
    pid = begin(call)
    if pid == -errno.ENOSYS:
        return errno.ENOSYS
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    child = children.adopt(pid)
    # What the process works with lives as long as it does, whoever waits for it.
    child.listen(functools.partial(_let_go, call, stack))
    exited = await child.wait()
    if exited.status not in {0, 1}:
        raise Internal(f"a helper process ended with status {exited.status}")
    code: int = call.error
    return code


def _let_go(*_: object) -> None:
    """Need it no more."""
