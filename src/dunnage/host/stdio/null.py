"""The sink of an output that nobody wants."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from .fd import Fd

if TYPE_CHECKING:
    from collections.abc import Callable


class NullSink:
    """/dev/null, for the output of a terminal, which has to be read all the same."""

    was_read = True
    unread_bytes = 0
    lost_bytes = 0
    refused = None

    def __init__(self, fd: Fd) -> None:
        self.fd = fd

    @classmethod
    def open(cls) -> Self:
        """Open it."""
        return cls(Fd(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)))

    def finish(self, on_done: Callable[[], None], *, wrote: bool) -> None:  # noqa: ARG002  # a sink's shape
        """Be done at once."""
        self.close()
        on_done()

    def forsake(self) -> None:
        """Nobody reads it anyway."""

    def close(self) -> None:
        """Close it; idempotent."""
        self.fd.close()
