"""What follows the death of a process: it is kept and told, and what is left dies.

Invariant (exit-on-disk): the exit of init is in the bundle before anybody can publish
it, or the failure is logged.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar

from dunnage.bootstrap import bundle
from dunnage.drivers.contract import Container, Happening, OomKilled, Process
from dunnage.errors import DunnageError, NotFound, ResourceExhausted
from dunnage.host.procs import Exited
from dunnage.task.machine import INIT
from dunnage.task.states import Status

from .entry import Entry

_log = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSE_S: Final = 1.0
"""When to try again to kill what outlives its init, if there is no process for it."""


class Begin(Protocol):
    """Begins work that is ended before the shim leaves."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> asyncio.Task[T]:
        """Begin it."""
        ...


class Deaths:
    """Hears of what happens to processes.

    Args:
        begin: begins the end of a container's other processes.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin = begin

    def listen(self, entry: Entry, exec_id: str, process: Process) -> None:
        """Hear of a process from now on; at once, if it has ended."""
        process.listen(lambda what: self._happened(entry, exec_id, what))

    def _happened(self, entry: Entry, exec_id: str, happening: Happening) -> None:
        match happening:
            case OomKilled():
                entry.task.oom_killed()
            case Exited(status=status, at_ns=at_ns):
                frozen = entry.task.snapshot().status is Status.PAUSED
                if exec_id == INIT:
                    _write_exit(entry, status, at_ns)
                entry.task.died(exec_id, status, at_ns)
                if exec_id == INIT:
                    entry.hurry()
                    self.end_the_others(entry, frozen=frozen)

    def end_the_others(self, entry: Entry, *, frozen: bool = False) -> None:
        """Kill what outlives its init, where no pid namespace does (protocol: 4.6).

        What is frozen is thawed first: it could neither die nor say so, and as long as
        an exec lives the exit of init is withheld.
        """
        assert entry.container, "who has died was a container's"
        kills = entry.container.init_is_outlived
        if kills or frozen:
            work = _kill_all(entry, entry.killing, thaws=frozen, kills=kills)
            entry.killing = self._begin(work)


def _write_exit(entry: Entry, status: int, at_ns: int) -> None:
    pid = entry.container.pid if entry.container else 0
    record = bundle.ExitRecord(entry.id, pid, status, at_ns)
    try:
        bundle.write_exit(entry.bundle, record)
    except OSError as error:
        _log.error("the exit is not on disk: %s", error, extra={"container": entry.id})


async def _kill_all(
    entry: Entry, earlier: asyncio.Task[None] | None, *, thaws: bool, kills: bool
) -> None:
    if earlier:
        await earlier
    container = entry.container
    assert container, "who has died was a container's"
    about = {"container": entry.id}
    while True:
        if thaws:
            await _thaw(container, about)
        if not kills:
            return
        try:
            await container.kill(int(signal.SIGKILL), everything=True)
        except NotFound:
            return  # nobody was left
        except ResourceExhausted as error:
            _log.warning("kill all: %s", error, extra=about)
            if entry.task.is_over(INIT):
                return
            # An exec that lives on withholds init's exit: no limit, as it would be
            # withheld for ever.
            await asyncio.sleep(_PAUSE_S)
        except DunnageError as error:
            _log.warning("kill all: %s", error, extra=about)
            return
        else:
            return


async def _thaw(container: Container, about: dict[str, str]) -> None:
    try:
        await container.resume()
    except (DunnageError, OSError) as error:
        # Where the kill of init has thawed it there is nothing left to do.
        _log.debug("thaw: %s", error, extra=about)
