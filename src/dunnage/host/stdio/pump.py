"""Bytes from one pipe or terminal to another, seldom passing through Python.

Owns: when to move bytes, and which side to wait for.
Must not know: where they lead, and who closes them.

The policy is *block*: while the sink is full nothing is taken from the source, so that
the writer there comes to a halt, and nobody else does.
Or *drop*: what the sink refuses is told, and forgotten.

Invariant (stdio-survives): what was taken from the source reaches the sink or is held
until it can; a full sink costs neither time nor a turn of the loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
from typing import TYPE_CHECKING, Final

from .fd import unread_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

# A write of up to this many bytes into a pipe that polls as writable is never cut.
_PIPE_BUF: Final = select.PIPE_BUF
_SPLICE_BYTES: Final = 1 << 20  # the largest pipe that anybody may make
_FILE_BATCH_BYTES: Final = 1 << 16
_HUNG_UP_S: Final = 0.05
_SPLICE_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pump:
    """Moves bytes from ``source`` to ``sink`` until one of them is over.

    Both are non-blocking ends of pipes or fifos, or one is the master of a terminal, or
    the sink is a file; they stay the caller's to close, after `stop` or in ``on_end``.
    ``on_end`` is called once: at the end of the source, or when nobody can read the
    sink any more; never after `stop`.
    ``on_hangup`` makes it a terminal's pump: called when the terminal has hung up,
    which is no end before `finish`; it is looked at again a little later.
    ``on_refused`` makes it a file's pump: called with the bytes that it cannot take.
    """

    def __init__(
        self,
        source: int,
        sink: int,
        on_end: Callable[[], None],
        on_hangup: Callable[[], None] | None = None,
        on_refused: Callable[[OSError, int], None] | None = None,
    ) -> None:
        self.moved_bytes = 0
        self._source = source
        self._sink = sink
        self._on_end = on_end
        self._on_hangup = on_hangup
        self._on_refused = on_refused
        self._batch_bytes = _FILE_BATCH_BYTES if on_refused else _PIPE_BUF
        self._held = b""
        # Neither a terminal nor a file that is appended to can be spliced.
        self._splices = on_hangup is None and on_refused is None
        self._takes_from_terminal = on_hangup is not None and os.isatty(source)
        self._is_moving = False
        self._is_finishing = False
        self._later: asyncio.Handle | None = None
        self._watched: int | None = None
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(source, select.POLLIN)
        self._poll.register(sink, select.POLLOUT)

    @property
    def held_bytes(self) -> int:
        """How much was taken from the source and is not in the sink yet."""
        return len(self._held)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there to move; the source must be open still."""
        ready = dict(self._poll.poll(0))
        return not self._held and not ready.get(self._source, 0) & select.POLLIN

    def start(self) -> None:
        """Begin to move."""
        self._is_moving = True
        self._watch(self._source)

    def finish(self) -> None:
        """Move what is there, and end: the source may stay open for ever."""
        self._is_finishing = True
        if self._is_moving:
            self._turn()

    def stop(self) -> None:
        """Move nothing more; idempotent."""
        self._is_moving = False
        self._watch(None)
        # Our owner holds us: let go of it, so that neither waits for the collector.
        self._on_end = _nothing
        self._on_refused = None

    def _turn(self) -> None:
        """Move what can be moved now, else wait for the side that keeps us from it.

        splice(2) says EAGAIN for an empty source and for a full sink alike, and waiting
        for the wrong one would spin; hence both are asked first.
        """
        ready = dict(self._poll.poll(0))
        source, sink = ready.get(self._source, 0), ready.get(self._sink, 0)
        if sink & select.POLLERR:  # no reader, and a pipe gets no second one
            self._end()
        elif not self._held and not source & select.POLLIN:
            self._wait_for_source(hung_up=bool(source))
        elif not sink & select.POLLOUT:
            self._wait_for_sink(hung_up=bool(sink & select.POLLHUP))
        else:
            try:
                self.moved_bytes += self._move()
            except BlockingIOError:
                pass  # another user of the same fifo was quicker: the next turn sees it
            except OSError as error:
                # Not known to happen but for a reader that left since we asked, or a
                # terminal that hung up.
                # To end this one stream is better than to meet the same error for ever.
                if error.errno == errno.EIO and self._may_come_back:
                    self._rest()
                else:
                    self._end()
            else:
                self._after_move()

    def _after_move(self) -> None:
        if self._watched is None:
            self._watch(self._source)
        if self._is_finishing and self._watched == self._source:
            # Its next silence is the end, and nobody else would tell us of it.
            self._call(self._loop.call_soon(self._turn))

    @property
    def _may_come_back(self) -> bool:
        return self._on_hangup is not None and not self._is_finishing

    def _wait_for_source(self, *, hung_up: bool) -> None:
        if hung_up and self._takes_from_terminal and self._may_come_back:
            self._rest()
        elif hung_up or self._is_finishing:
            self._end()
        else:
            self._watch(self._source)

    def _wait_for_sink(self, *, hung_up: bool) -> None:
        if hung_up and self._may_come_back:
            self._rest()
        else:
            self._watch(self._sink)

    def _rest(self) -> None:
        """Leave a terminal alone that has hung up: it would be ready all the time."""
        assert self._on_hangup, "only a terminal comes back"
        self._watch(None)
        self._on_hangup()
        self._call(self._loop.call_later(_HUNG_UP_S, self._turn))

    def _move(self) -> int:
        """Move one batch; return its size."""
        if self._splices and not self._held and unread_bytes(self._source) >= _PIPE_BUF:
            try:
                return os.splice(
                    self._source, self._sink, _SPLICE_BYTES, flags=_SPLICE_FLAGS
                )
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.ENOSYS}:
                    raise
                self._splices = False
        # Little is copied: a spliced line would keep one of the sink's 16 slots for
        # itself, while written lines share one, so that a fifo holds 64 KiB of them.
        data = self._held or os.read(self._source, self._batch_bytes)
        self._held = data
        try:
            written = os.write(self._sink, data)
        except BlockingIOError:
            raise
        except OSError as error:
            if self._on_refused is None:
                raise
            self._held = b""
            self._on_refused(error, len(data))
            return len(data)
        self._held = data[written:]
        return written

    def _call(self, handle: asyncio.Handle) -> None:
        if self._later:
            self._later.cancel()
        self._later = handle

    def _end(self) -> None:
        on_end = self._on_end
        self.stop()
        on_end()

    def _watch(self, fd: int | None) -> None:
        """Be called when ``fd`` is ready, and for nothing else."""
        if self._later:
            self._later.cancel()
            self._later = None
        if fd == self._watched:
            return
        if self._watched == self._source:
            self._loop.remove_reader(self._source)
        elif self._watched == self._sink:
            self._loop.remove_writer(self._sink)
        self._watched = fd
        if fd == self._source:
            self._loop.add_reader(fd, self._turn)
        elif fd == self._sink:
            self._loop.add_writer(fd, self._turn)


def _nothing() -> None:
    pass
