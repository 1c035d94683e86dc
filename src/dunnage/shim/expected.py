"""Containers that were told to come here: started, and not created yet.

Between the answer of `start` and the Create that follows it nobody else speaks for a
container, so a Shutdown for another of its group would make the shim leave under it.

Invariant (kept-for-those-who-come): a shim whose address a `start` has given does not
leave before that container was created or shut down, or `EXPECTED_S` have passed in
which no connection was open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

EXPECTED_S: Final = 30.0
"""How long a container may take to come while no connection is open: a daemon connects
as soon as it has the address, and holds on however long it is paused."""
_LOOK_S: Final = 1.0


class Expected:
    """Whom a shim waits for.

    Args:
        connections: says how many connections are open.
        clock: seconds that never go back.
    """

    def __init__(
        self, connections: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._since: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, container_id: str) -> None:
        """Expect a container, from now on."""
        self._since[container_id] = self._clock()

    def come(self, container_id: str) -> None:
        """Expect it no more, as it is there; its own Shutdown will follow."""
        self._since.pop(container_id, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def withdraw(self, container_id: str) -> None:
        """Expect it no more: it never will come."""
        self._since.pop(container_id, None)

    def anybody(self) -> bool:
        """Whether there is still somebody to come."""
        now = self._clock()
        if self._connections():
            # Any of them may be about to send a Create.
            self._since = dict.fromkeys(self._since, now)
        late = [i for i, since in self._since.items() if now - since >= EXPECTED_S]
        for container_id in late:
            del self._since[container_id]
        return bool(self._since)

    def when_nobody(self, then: Callable[[], None]) -> None:
        """Call ``then``, once, when there is nobody left to come and nobody came.

        Asked again before that, it still calls once.
        """
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_LOOK_S, self._look, then)

    def _look(self, then: Callable[[], None]) -> None:
        self._timer = None
        if self.anybody():
            self.when_nobody(then)
        else:
            then()
