"""mount(2), umount2(2) and openat2(2), which Python does not offer.

Owns: how they are called, and that a failure is an `OSError`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_AT_FDCWD: Final = -100
_SYS_OPENAT2: Final = 437  # the same on every architecture
_RESOLVE_IN_ROOT: Final = 0x10
_UMOUNT_NOFOLLOW: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    """openat2(2)'s ``struct open_how``."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """Mount ``source`` on ``target``."""
    _check(
        _libc.mount(
            _text(source), _text(target), _text(fstype), flags, _text(data) or None
        )
    )


def umount(target: str) -> None:
    """Unmount what is on top at ``target``, which is no symlink; never lazily."""
    _check(_libc.umount2(_text(target), _UMOUNT_NOFOLLOW), target)


def open_in_root(root: str, path: str) -> int:
    """Open ``path`` as if ``root`` were ``/``: no ``..`` and no symlink leads out."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
        number: int = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_long(root_fd),
            _text(path or "."),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        _check(number)
        return number
    finally:
        os.close(root_fd)


def said(error: OSError | ValueError) -> str:
    """Return what the kernel said, in the lower case of Go's texts."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number or errno.EINVAL).lower()


def _text(text: str) -> bytes:
    """Encode for the kernel, which would stop reading at a NUL."""
    if "\0" in text:
        raise ValueError("embedded null character")
    return os.fsencode(text)


def _check(result: int, path: str | None = None) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
