"""A terminal as its user has it, with a command in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 30


class Seat:
    """A terminal, and a command in it."""

    def __init__(self, argv: list[str]) -> None:
        self.master, self.slave = os.openpty()
        self.resize(90, 30)
        self.mode = termios.tcgetattr(self.slave)
        self.said = b""
        # The controlling terminal of a session of its own, as in a terminal emulator.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
        )

    def resize(self, width: int, height: int) -> None:
        """Set the size, as a user who drags a window's corner."""
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def type(self, text: bytes) -> None:
        """Type something."""
        os.write(self.master, text)

    def expect(self, text: bytes) -> None:
        """Read until ``text`` is said, and forget all up to it."""
        deadline = time.monotonic() + LIMIT_S
        while text not in self.said:
            left_s = deadline - time.monotonic()
            assert select.select([self.master], [], [], max(left_s, 0))[0], self.said
            self.said += os.read(self.master, 1 << 16)
            # ctr leaves our terminal to add its own to what the container's has added.
            self.said = self.said.replace(b"\r\r\n", b"\r\n")
        self.said = self.said.partition(text)[2]

    def ended(self) -> int:
        """Wait for the end; expect the terminal to be as it was."""
        status = self.process.wait(LIMIT_S)
        assert self.mode == termios.tcgetattr(self.slave)
        return status

    def close(self) -> None:
        """End what is left."""
        self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@contextlib.contextmanager
def seated(argv: list[str]) -> Iterator[Seat]:
    """Run a command in a terminal."""
    seat = Seat(argv)
    try:
        yield seat
    finally:
        seat.close()
