"""Files as block devices.

Owns: which loop device, and that it goes with its last user.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final

_CONTROL: Final = "/dev/loop-control"
_GET_FREE: Final = 0x4C82
_CONFIGURE: Final = 0x4C0A
_SET_FD: Final = 0x4C00
_CLR_FD: Final = 0x4C01
_SET_STATUS64: Final = 0x4C04
_AUTOCLEAR: Final = 4
_TRIES: Final = 100
# The kernel's struct loop_info64: five u64, four u32 of which the last has the flags,
# the name, and what only ciphers had. Before it in struct loop_config: the fd, the
# block size; after it eight u64 of nothing.
_INFO: Final = struct.Struct("=40x12xI63sx64x32x16x")
_CONFIG: Final = struct.Struct(f"=II{_INFO.size}s64x")


@contextlib.contextmanager
def attached(path: str, *, read_only: bool) -> Iterator[str]:
    """Yield a loop device that is the file; what is mounted meanwhile keeps it.

    Raises:
        OSError: the file cannot be opened, or there is no device for it.
    """
    mode = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    file = os.open(path, mode)
    try:
        # That a file is open for reading only makes its device read-only.
        info = _INFO.pack(_AUTOCLEAR, os.fsencode(path)[:63])
        device, name = _attach(file, mode, info)
    finally:
        os.close(file)
    try:
        yield name
    finally:
        os.close(device)


def _attach(file: int, mode: int, info: bytes) -> tuple[int, str]:
    """Return a device, opened, and its name."""
    for turn in range(_TRIES):
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            name = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
        finally:
            os.close(control)
        device = os.open(name, mode)
        try:
            _configure(device, file, info)
        except OSError as error:
            os.close(device)
            # Somebody else was quicker.
            if error.errno != errno.EBUSY or turn == _TRIES - 1:
                error.filename = name
                raise
        else:
            return device, name
    raise AssertionError("the last turn returns or raises")


def _configure(device: int, file: int, info: bytes) -> None:
    try:
        fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(file, 0, info))
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTTY}:
            raise
        # A kernel before 5.8; or it says the same again.
        fcntl.ioctl(device, _SET_FD, file)
        try:
            fcntl.ioctl(device, _SET_STATUS64, info)
        except OSError:
            fcntl.ioctl(device, _CLR_FD)
            raise
