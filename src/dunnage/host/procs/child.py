"""A process that is our child, by birth or by adoption, and its one exit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class Exited(NamedTuple):
    """How a process ended: 0–255, or 128 + signal; noticed when, ns since the epoch."""

    status: int
    at_ns: int


Listener: TypeAlias = Callable[[Exited], None]


class Child:
    """One process; its exit is kept here, so it can be listened to at any time."""

    def __init__(self, pid: int, exited: Exited | None = None) -> None:
        self.pid = pid
        self.exited = exited
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with the exit, once: at the reaping, or now if it was."""
        if self.exited is not None:
            listener(self.exited)
        else:
            self._listeners.append(listener)

    async def wait(self) -> Exited:
        """Wait for the exit; cancelling ends the waiting only."""
        future: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()

        def hear(exited: Exited) -> None:
            if not future.done():
                future.set_result(exited)

        self.listen(hear)
        return await future

    def kill(self, signum: int) -> None:
        """Send a signal.

        Safe against recycled pids: as long as the child is not reaped its pid is its
        own, and nobody but our reaper can reap it.

        Raises:
            ProcessLookupError: it was reaped.
        """
        if self.exited is not None:
            raise ProcessLookupError(f"process {self.pid} already finished")
        os.kill(self.pid, signum)

    def reaped(self, exited: Exited) -> None:
        """Take the exit, from the reaper."""
        self.exited = exited
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener(exited)
