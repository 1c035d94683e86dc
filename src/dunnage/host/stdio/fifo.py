"""The fifos that clients make for the streams of a process.

Owns: how a fifo is opened without ever waiting for its other end, and how it is left.
Must not know: what flows through it.

Invariant (stdio-survives): our own read end keeps a fifo alive through the absence of
its reader, for as long as something may be written; after that, what is unread is kept
until somebody read it, nobody can (it was unlinked, and nobody has it open), or
`FifoSink.close`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from dunnage.errors import DunnageError, Unimplemented, kind_of

from .fd import Fd, unread_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_LOOK_S: Final = 0.001
_LONGEST_LOOK_S: Final = 0.05
_RARE_LOOK_S: Final = 1.0
_SILENT_FOR_LOOKS: Final = 10
"""Looks become rare with the time that nobody has read: a tenth of it apart."""


def reason(error: OSError | ValueError) -> str:
    """Return what the kernel said, in the lower case of Go's texts."""
    number = error.errno if isinstance(error, OSError) else None
    # ValueError: a NUL in the path, which the kernel never gets to see.
    return os.strerror(number or errno.EINVAL).lower()


def open_fifo(path: str, flags: int) -> Fd:
    """Open a fifo, never waiting for its other end; refuse everything else."""
    fd = Fd(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    if not stat.S_ISFIFO(os.fstat(fd.number).st_mode):
        fd.close()
        raise Unimplemented(f"stdio on {path}, which is not a fifo")
    return fd


class FifoSource:
    """A client's fifo for stdin: read end, and the *closer*.

    The closer is a write end of our own: while it is open, a client may go and come
    back without the process seeing an end of its input.
    """

    def __init__(self, fd: Fd, closer: Fd) -> None:
        self.fd = fd
        self.closer = closer

    @classmethod
    def open(cls, path: str) -> FifoSource:
        """Open the fifo at ``path``, whether or not a writer is there."""
        try:
            with ExitStack() as undo:
                fd = open_fifo(path, os.O_RDONLY)
                undo.callback(fd.close)
                source = cls(fd, open_fifo(path, os.O_WRONLY))
                undo.pop_all()
                return source
        except (OSError, ValueError) as error:
            raise kind_of(error, DunnageError)(
                f"failed to open stdin fifo {path}: stat {path}: {reason(error)}"
            ) from error

    def close(self) -> None:
        """Close both ends; idempotent."""
        self.closer.close()
        self.fd.close()


class FifoSink:
    """A client's fifo for an output.

    Two descriptors: the writer, and the *keeper*, open for reading and writing, which
    makes the opening wait for nobody, and lets nothing break while the reader is away.
    With the keeper closed the writer tells whether a reader is there.
    Policy: *block*, see `pump`.
    """

    refused = None

    def __init__(self, keeper: Fd, writer: Fd, *, reader_seen: bool) -> None:
        self.fd = writer
        self._keeper = keeper
        self._reader_seen = reader_seen
        self.was_read = False
        self.lost_bytes = 0
        self._unread = 0
        self._moved_at = 0.0
        self._look: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @classmethod
    def open(cls, path: str) -> FifoSink:
        """Open the fifo at ``path``, whether or not a reader is there."""
        try:
            with ExitStack() as undo:
                writer = _open_writer_if_read(path)
                if writer:
                    undo.callback(writer.close)
                keeper = open_fifo(path, os.O_RDWR)
                undo.callback(keeper.close)
                sink = cls(
                    keeper,
                    writer or open_fifo(path, os.O_WRONLY),
                    reader_seen=writer is not None,
                )
                undo.pop_all()
                return sink
        except (OSError, ValueError) as error:
            raise kind_of(error, DunnageError)(
                "failed to start io pipe copy: unable to copy pipes: containerd-shim: "
                f'opening file "{path}" failed: open {path}: {reason(error)}'
            ) from error

    @property
    def unread_bytes(self) -> int:
        """How much was written and not yet read."""
        return unread_bytes(self.fd.number) if self.fd.is_open else 0

    def finish(self, on_done: Callable[[], None], *, wrote: bool) -> None:
        """Let the reader have what is left, then its end of file.

        A fifo that nobody has open forgets its bytes, and who opens it then waits for
        ever; so stay until a reader was there.
        ``on_done`` is called once, all closed; never after `close`.
        """
        self._keeper.close()
        self._reader_seen |= wrote  # of use only when nothing of it is left unread
        self._unread = self.unread_bytes
        self._moved_at = self._loop.time()
        self._look_again(on_done, _FIRST_LOOK_S)

    def _look_again(self, on_done: Callable[[], None], delay_s: float) -> None:
        before, self._unread = self._unread, self.unread_bytes
        self.was_read = not self._unread and (self._reader_seen or self._has_reader())
        now = self._loop.time()
        if self._unread != before:
            self._moved_at = now
            delay_s = min(delay_s, _LONGEST_LOOK_S)
        if self.was_read or (self._is_unlinked() and not self._has_reader()):
            self.close()
            on_done()
        else:
            rare_s = min((now - self._moved_at) / _SILENT_FOR_LOOKS, _RARE_LOOK_S)
            longer_s = min(2 * delay_s, max(rare_s, _LONGEST_LOOK_S))
            self._look = self._loop.call_later(
                delay_s, self._look_again, on_done, longer_s
            )

    def forsake(self) -> None:
        """Be content with the reader that is there, where no other one can come."""
        if self.fd.is_open and self._is_unlinked():
            self._keeper.close()

    def close(self) -> None:
        """Give up what is left; a reader that is there still gets it; idempotent."""
        if self._look:
            self._look.cancel()
        self._keeper.close()
        if self.fd.is_open and not self._has_reader():
            self.lost_bytes = self.unread_bytes
        self.fd.close()

    def _is_unlinked(self) -> bool:
        return os.fstat(self.fd.number).st_nlink == 0

    def _has_reader(self) -> bool:
        poll = select.poll()
        poll.register(self.fd.number, 0)
        return not any(events & select.POLLERR for _, events in poll.poll(0))


def _open_writer_if_read(path: str) -> Fd | None:
    """Open for writing if a reader is there, else return None."""
    try:
        return open_fifo(path, os.O_WRONLY)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
