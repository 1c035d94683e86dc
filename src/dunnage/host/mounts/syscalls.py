"""mount(2), umount2(2) and what is newer, which Python does not offer.

Owns: how they are called, and that a failure is an `OSError`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_AT_EMPTY_PATH: Final = 0x1000
# The same on every architecture.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_RDONLY: Final = 1
_MOUNT_ATTR_IDMAP: Final = 0x100000
_CLONE_NEWUSER: Final = 0x10000000
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


class _MountAttr(ctypes.Structure):
    """mount_setattr(2)'s ``struct mount_attr``."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


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
        return _call(
            *(_SYS_OPENAT2, root_fd, _text(path or ".")),
            *(ctypes.byref(how), ctypes.sizeof(how)),
        )
    finally:
        os.close(root_fd)


def copy_tree(path: str, *, recursive: bool) -> int:
    """Open a copy of the mount at ``path``, mounted nowhere; it goes when closed."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _call(_SYS_OPEN_TREE, _AT_FDCWD, _text(path), flags)


def map_owners(
    tree: int, user_namespace: int, *, recursive: bool, read_only: bool = False
) -> None:
    """Show the files of a tree as a user namespace maps their owners."""
    to_set = _MOUNT_ATTR_IDMAP | (_MOUNT_ATTR_RDONLY if read_only else 0)
    attributes = _MountAttr(to_set, 0, 0, user_namespace)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _call(
        *(_SYS_MOUNT_SETATTR, tree, b"", flags),
        *(ctypes.byref(attributes), ctypes.sizeof(attributes)),
    )


def attach_tree(tree: int, target: str) -> None:
    """Mount a tree that is mounted nowhere."""
    text = _text(target)
    _call(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, text, _MOVE_MOUNT_F_EMPTY_PATH)


def enter_user_namespace() -> None:
    """Be in a new user namespace from now on."""
    _check(_libc.unshare(_CLONE_NEWUSER))


def said(error: OSError | ValueError) -> str:
    """Return what the kernel said, in the lower case of Go's texts."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number or errno.EINVAL).lower()


def _text(text: str) -> bytes:
    """Encode for the kernel, which would stop reading at a NUL."""
    if "\0" in text:
        raise ValueError("embedded null character")
    return os.fsencode(text)


def _call(*words: Any) -> int:
    """Make a system call; numbers are passed as wide as they can be."""
    wide = (ctypes.c_long(word) if isinstance(word, int) else word for word in words)
    number: int = _libc.syscall(*wide)
    _check(number)
    return number


def _check(result: int, path: str | None = None) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
