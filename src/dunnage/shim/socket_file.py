"""The shim's socket in the file system: bound, adopted, and unlinked, without races.

Who starts, and who cleans up, holds a lock on the *directory* of the sockets while it
looks and acts: an flock on a directory leaves no file behind.
So a socket that is there and refuses is stale, and may be unlinked by whoever holds the
lock, without meeting a successor's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import Final

_CONNECT_LIMIT_S: Final = 0.1
_BACKLOG: Final = 128


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Hold the lock of a directory of sockets; it is made when it is missing."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def is_served(path: str) -> bool:
    """Whether somebody accepts connections at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_LIMIT_S)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            # Busy (its backlog is full), or slow: alive as far as anybody can tell.
            return os.path.exists(path)
    return True


def bind(path: str) -> socket.socket | None:
    """Listen at ``path``; None if somebody does. A stale socket is replaced.

    Raises:
        OSError: the socket cannot be made.
    """
    with locked(os.path.dirname(path)):
        if is_served(path):
            return None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Nobody may connect between bind and a chmod: a shim's socket is the
            # key to the host (CVE-2020-15257).
            umask = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(umask)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener


def unlink_if_ours(path: str, identity: tuple[int, int] | None) -> None:
    """Unlink the socket at ``path`` if it is the very file that we bound."""
    if identity is not None and identity == file_identity(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def unlink_if_stale(path: str) -> None:
    """Unlink the socket at ``path`` if nobody serves it."""
    if not os.path.exists(path):
        return
    with locked(os.path.dirname(path)), contextlib.suppress(FileNotFoundError):
        if not is_served(path):
            os.unlink(path)


def file_identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of ``path``, None if it is not there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
