"""What a process is called: its name, its command line, its environment in /proc.

Node scripts and people find a shim by ``ps`` and ``pgrep -f``; a fork would show its
parent's words.

prctl(2): the single fields of PR_SET_MM need a capability, PR_SET_MM_MAP with all of
them at once, and without a new executable, does not (Linux 3.18; the kernel may have
been built without it).
The kernel shows command line and environment only from anonymous memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from typing import Final

from .prctl import prctl

_PR_SET_NAME: Final = 15
_PR_SET_MM: Final = 35
_PR_SET_MM_MAP: Final = 14
_NAME_BYTES: Final = 15
_NO_FILE: Final = 0xFFFFFFFF


class _Map(ctypes.Structure):
    """Struct prctl_mm_map of linux/prctl.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "start_code",
            "end_code",
            "start_data",
            "end_data",
            "start_brk",
            "brk",
            "start_stack",
            "arg_start",
            "arg_end",
            "env_start",
            "env_end",
            "auxv",
        )
    ] + [("auxv_size", ctypes.c_uint32), ("exe_fd", ctypes.c_uint32)]


# Fields of /proc/PID/stat, counted from what follows the command's name (proc(5)).
_IN_STAT: Final = {
    "start_code": 23,
    "end_code": 24,
    "start_stack": 25,
    "start_data": 42,
    "end_data": 43,
    "start_brk": 44,
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sbrk.restype = ctypes.c_void_p
_shown: list[mmap.mmap] = []
"""The memory that the kernel shows now; it must not be freed."""


def set_title(argv: Sequence[bytes], environ: Sequence[bytes] = ()) -> None:
    """Show other words as this process's; what cannot be shown is left as it was."""
    with contextlib.suppress(OSError):
        name = ctypes.create_string_buffer(argv[0].rpartition(b"/")[2][:_NAME_BYTES])
        prctl(_PR_SET_NAME, ctypes.addressof(name))
    with contextlib.suppress(OSError, ValueError):
        _show(
            b"".join(word + b"\0" for word in argv),
            b"".join(entry + b"\0" for entry in environ),
        )


def clear_title() -> None:
    """Show none of the words that were set: of a process that has only to end."""
    for memory in _shown:
        memory[:] = bytes(len(memory))


def _show(arguments: bytes, environment: bytes) -> None:
    size = max(len(arguments) + len(environment), 1)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[: len(arguments) + len(environment)] = arguments + environment
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    values = {name: int(fields[at]) for name, at in _IN_STAT.items()}
    told = _Map(
        **values,
        brk=_libc.sbrk(0),
        arg_start=start,
        arg_end=start + len(arguments),
        env_start=start + len(arguments),
        env_end=start + len(arguments) + len(environment),
        exe_fd=_NO_FILE,
    )
    prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.addressof(told), ctypes.sizeof(told))
    _shown[:] = [memory]
