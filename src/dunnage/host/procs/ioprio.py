"""The class and priority of a process's disk I/O, which Python does not offer."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

_WHO_PROCESS: Final = 1
# asm/unistd.h: number of ioprio_set; ioprio_get is the next one.
_NUMBERS: Final = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = (ctypes.c_long,) * 4
_libc.syscall.restype = ctypes.c_long


def take_over(pid: int) -> None:
    """Have the I/O priority of another process from now on.

    Raises:
        OSError: it is gone, or this machine's number of the call is not known here.
    """
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(0, f"ioprio_set: not known on {platform.machine()}")
    value = _call(number + 1, _WHO_PROCESS, pid)
    if value != _call(number + 1, _WHO_PROCESS, 0):
        _call(number, _WHO_PROCESS, 0, value)


def _call(number: int, who: int, pid: int, value: int = 0) -> int:
    result = int(_libc.syscall(number, who, pid, value))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
