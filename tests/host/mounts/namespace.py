"""Tests whose mounts nobody else sees, and which leave none behind.

They need root, as the mounts of a container do, and fail without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from dunnage.host.mounts import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLONE_NEWNS = 0x20000
_CLONE_NEWUSER = 0x10000000
_MS_REC_PRIVATE = 1 << 14 | 1 << 18

P = ParamSpec("P")


def apart(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test in a child with a mount namespace of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _leave_mounts_of_others()
                test(*args, **kwargs)
            except BaseException:
                os.write(write_end, traceback.format_exc().encode()[-60000:])
            finally:
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as told:
            failure = told.read().decode()
        os.waitpid(pid, 0)
        assert not failure, failure

    return run


@contextlib.contextmanager
def in_user_namespace() -> Iterator[None]:
    """Go on as the root of a user namespace, which has the mounts of before.

    There is no way back: the test ends with it.
    """
    _unshare(_CLONE_NEWUSER | _CLONE_NEWNS)
    Path("/proc/self/uid_map").write_text("0 0 1")
    yield


def _unshare(kinds: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(kinds):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}: run the tests as root")


def _leave_mounts_of_others() -> None:
    _unshare(_CLONE_NEWNS)
    syscalls.mount("none", "/", "", _MS_REC_PRIVATE, "")
