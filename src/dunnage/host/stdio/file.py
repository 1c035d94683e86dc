"""The sink of an output that is appended to a file.

Policy: *drop*.
A disk that is full, or fails, neither stops the process nor ends its output: what could
not be written is counted, and the first of it is said in the log.
What can be written later is written.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING, Self

from dunnage.errors import DunnageError, kind_of

from .fd import Fd
from .fifo import FifoSink, reason

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)


class FileSink:
    """A file, made if it is not there, and its directories with it."""

    was_read = True
    unread_bytes = 0

    def __init__(self, fd: Fd, path: str) -> None:
        self.fd = fd
        self.lost_bytes = 0
        self._path = path

    @classmethod
    def open(cls, path: str) -> Self | FifoSink:
        """Open it; a fifo that stands there is one, with its own policy."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        flags |= os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            if _is_fifo(path):
                return FifoSink.open(path)
            try:
                fd = os.open(path, flags, 0o644)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), 0o755)
                fd = os.open(path, flags, 0o644)
            return cls(Fd(fd), path)
        except (OSError, ValueError) as error:
            raise kind_of(error, DunnageError)(
                f"failed to create init process I/O: open {path}: {reason(error)}"
            ) from error

    def refused(self, error: OSError, size: int) -> None:
        """Count what could not be written."""
        if not self.lost_bytes:
            text = "%s cannot be written, output is dropped: %s"
            _log.error(text, self._path, reason(error))
        self.lost_bytes += size

    def finish(self, on_done: Callable[[], None], *, wrote: bool) -> None:  # noqa: ARG002  # a sink's shape
        """Be done at once."""
        self.close()
        on_done()

    def forsake(self) -> None:
        """It needs no reader."""

    def close(self) -> None:
        """Close it; idempotent."""
        self.fd.close()


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False  # opening it will tell
