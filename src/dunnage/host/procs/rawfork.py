"""fork(2) without what Python does before and after it.

Python's hooks renew locks, reseed `random` and tell `threading` who is left: with one
thread there is nothing to renew, and it dirties half a MiB of memory that parent and
child could share.
"""

from __future__ import annotations

import ctypes
import os

# PyDLL keeps the interpreter's lock: the child has it, as the parent had.
_libc = ctypes.PyDLL(None, use_errno=True)


def fork() -> int:
    """Fork; for a process with one thread. Return as `os.fork`.

    Raises:
        OSError: there is no room for another process.
    """
    pid = int(_libc.fork())
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return pid
