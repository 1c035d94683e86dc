"""Output that nobody has read yet when its process is deleted.

Owns: how long it is kept, and what is said when it is given up.
Must not know: how bytes move.

Delete does not wait for a reader that has stalled; so what is left, in the process's
pipe, in our hands and in the client's fifo (whose bytes go with its last descriptor),
is held here, without anything else of the container.
So is a logger that has not ended yet.

Invariant (output-held): unread output outlives Delete and Shutdown until it was read,
nobody can read it any more, or nothing of it moved for `LIMIT_S`; then all is closed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .streams import Stdio

_log = logging.getLogger(__name__)

LIMIT_S: Final = 300.0
"""How long a reader may be silent."""
_SHORTEST_LOOK_S: Final = 0.05
_LONGEST_LOOK_S: Final = 1.0


class Held:
    """The streams that were kept, each until its own end."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._holding: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._holding)

    def keep(self, stdio: Stdio, container: str) -> None:
        """Take the streams over from their process; what was read is closed at once.

        A process that lives on, daemonised, keeps its output only as long as something
        is unread: its client waits for the end of it, and may have nothing else to do.
        """
        stdio.close_input()
        extra = {"container": container}
        if stdio.is_read:
            _close(stdio, extra)
            if stdio.is_logging:
                self._take(stdio.ended())
            return
        unread = stdio.unread_bytes
        _log.info("deleted with %d bytes of output unread", unread, extra=extra)
        self._take(self._hold(stdio, extra))

    def _take(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._holding.add(task)
        task.add_done_callback(self._holding.discard)

    async def drained(self, limit_s: float) -> None:
        """Wait until nothing is held, ``limit_s`` at the most; give up the rest."""
        if self._holding:
            _, late = await asyncio.wait(self._holding, timeout=limit_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _hold(self, stdio: Stdio, extra: dict[str, str]) -> None:
        loop = asyncio.get_running_loop()
        before, since = stdio.progress, loop.time()
        try:
            while not stdio.is_read:
                silent_s = loop.time() - since
                if silent_s >= self._limit_s:
                    break
                stdio.forsake()
                look_s = min(max(_SHORTEST_LOOK_S, silent_s / 10), _LONGEST_LOOK_S)
                await asyncio.wait((stdio.finished,), timeout=look_s)
                if stdio.progress != before:
                    before, since = stdio.progress, loop.time()
        finally:
            _close(stdio, extra)
            await stdio.ended()


def _close(stdio: Stdio, extra: dict[str, str]) -> None:
    stdio.close()
    if stdio.lost_bytes:
        text = "%d bytes of its output were never read"
        _log.warning(text, stdio.lost_bytes, extra=extra)
