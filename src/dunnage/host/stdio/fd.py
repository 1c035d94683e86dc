"""A file descriptor with an owner."""

from __future__ import annotations

import fcntl
import os
from array import array
from termios import FIONREAD


class Fd:
    """A descriptor that is closed once, however often it is asked to be.

    Closing a number twice would close a stranger's descriptor.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def is_open(self) -> bool:
        """Whether `close` has not been called yet."""
        return self.number >= 0

    def close(self) -> None:
        """Close it; idempotent."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)


def pipe() -> tuple[Fd, Fd]:
    """Make a pipe; return its read and its write end, both close-on-exec."""
    read_end, write_end = os.pipe()
    return Fd(read_end), Fd(write_end)


def unread_bytes(fd: int) -> int:
    """Return how many bytes wait in the pipe or fifo that ``fd`` is an end of."""
    answer = array("i", [0])
    fcntl.ioctl(fd, FIONREAD, answer)
    return answer[0]
