"""What a shim gives back when it is at rest.

Most of its life nothing happens in a shim.
Some time after the last thing did, it drops what it keeps in hand for work, and the
copies of its parent's memory that are as the original again.

Invariant (rest-is-still): there is one timer after the last stir, and none after it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Final

from dunnage.host import memory

QUIET_S: Final = 1.0
"""How long nothing has happened when a shim counts as being at rest."""

_log = logging.getLogger(__name__)


class Rest:
    """Gives back when nothing has happened for a while.

    Args:
        is_working: tells whether an operation is in flight: somebody may share our
            memory. Its end has to stir.
    """

    def __init__(
        self, is_working: Callable[[], bool], quiet_s: float = QUIET_S
    ) -> None:
        self._is_working = is_working
        self._quiet_s = quiet_s
        self._timer: asyncio.TimerHandle | None = None
        self._stirred_at = 0.0

    def stir(self) -> None:
        """Note that something happens."""
        loop = asyncio.get_running_loop()
        self._stirred_at = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._quiet_s, self._look)

    def close(self) -> None:
        """Give nothing back any more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        left_s = self._stirred_at + self._quiet_s - loop.time()
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._look)
        elif not self._is_working():
            give_back()


def give_back() -> None:
    """Drop what is kept in hand, then the copies that are equal to their original."""
    gc.collect()
    memory.trim()
    if memory.give_back() is None:
        _log.debug("no memory could be given back")
