"""What a sink is: where an output of a process goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from .fd import Fd


class Sink(Protocol):
    """One end of the port; a pump, or the process itself, writes to its ``fd``."""

    fd: Fd

    @property
    def was_read(self) -> bool:
        """Whether it is over, and whoever reads it has it all."""
        ...

    @property
    def unread_bytes(self) -> int:
        """How much was written and not yet read."""
        ...

    @property
    def lost_bytes(self) -> int:
        """How much was given up that nobody can read any more."""
        ...

    @property
    def refused(self) -> Callable[[OSError, int], None] | None:
        """What is told of bytes that could not be written; they are dropped then.

        None: it is a pipe or a fifo, which may be full but refuses nothing.
        """
        ...

    def finish(self, on_done: Callable[[], None], *, wrote: bool) -> None:
        """Nothing more will be written: let the reader come to the end.

        ``on_done`` is called once, all closed; never after `close`.
        """

    def forsake(self) -> None:
        """Be content with the reader that is there, where no other one can come."""

    def close(self) -> None:
        """Give up what is left; idempotent."""
