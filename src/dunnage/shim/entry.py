"""One container as the shim keeps it: its life, what runs it, and who waits for it.

Invariant (no-growth): what was deleted leaves nothing here, no lock and no waiter, and
is freed at once: nothing that an entry holds leads back to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from dunnage.drivers.contract import Container, Process, Streams
from dunnage.errors import Aborted, NotFound
from dunnage.task.events import Event, TaskCreate, TaskDelete, TaskExit
from dunnage.task.machine import INIT, Task
from dunnage.task.states import Exit

STUCK_LIMIT_S: Final = 10.0
"""How long a runtime may still be busy with a start when init is dead already, or with
a kill when what was killed is to be deleted."""


class Entry:
    """A container that was created or is being created."""

    def __init__(self, create: TaskCreate, emit: Callable[[Event], None]) -> None:
        self._waiters = _Waiters(emit)
        self.task = Task(create, self._waiters.hear)
        self.bundle = create.bundle
        self.container: Container | None = None
        self.streams: dict[str, Streams] = {}
        self.killing: asyncio.Task[None] | None = None
        """The end of a container's other processes, when its init is dead."""
        self._execs: dict[str, Process] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._starts: dict[str, asyncio.Timeout] = {}
        self._kills: set[tuple[str, asyncio.Future[None]]] = set()

    @property
    def id(self) -> str:
        """The id of the container."""
        return self.task.id

    def add(self, exec_id: str, process: Process, streams: Streams) -> None:
        """Keep an exec."""
        self._execs[exec_id] = process
        self.streams[exec_id] = streams

    def forget(self, exec_id: str) -> None:
        """Drop an exec that was deleted."""
        self._execs.pop(exec_id, None)
        self.streams.pop(exec_id, None)
        self._locks.pop(exec_id, None)

    def process(self, exec_id: str) -> Process:
        """Return what runs init or an exec.

        Raises:
            NotFound: no such exec, or the container is still being created.
        """
        process = self._execs.get(exec_id) if exec_id else self.container
        if process is None:
            raise NotFound(f"process does not exist {exec_id}")
        return process

    @property
    def execs(self) -> dict[str, Process]:
        """The execs that were added and not deleted."""
        return dict(self._execs)

    # -- one operation at a time on each process

    @contextlib.asynccontextmanager
    async def turn(self, exec_id: str) -> AsyncIterator[None]:
        """Wait for the operation in flight on a process, then have one's own.

        What is not there has none, and leaves no lock behind that nobody would drop.
        """
        if exec_id and exec_id not in self._execs:
            yield
            return
        async with self._locks.setdefault(exec_id, asyncio.Lock()):
            yield

    @contextlib.asynccontextmanager
    async def starting(self, exec_id: str) -> AsyncIterator[None]:
        """Run the start of a process, to be given up some time after init's death.

        Raises:
            Aborted: it was given up.
        """
        # Init's own start may begin after its death, while an exec withholds the exit.
        limit = asyncio.timeout(STUCK_LIMIT_S if self.task.init_is_dead else None)
        self._starts[exec_id] = limit
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            name = f"exec {exec_id}" if exec_id else "init"
            raise Aborted(
                f"start of {name}: init is dead, and the runtime did not end"
            ) from None
        finally:
            del self._starts[exec_id]

    def hurry(self) -> None:
        """Limit the starts in flight, now that init is dead: they withhold its exit."""
        when = asyncio.get_running_loop().time() + STUCK_LIMIT_S
        for limit in self._starts.values():
            limit.reschedule(when)

    @contextlib.contextmanager
    def kill_in_flight(self, exec_id: str) -> Iterator[None]:
        """Note a call of Kill, until the block is left to answer it."""
        kill = exec_id, asyncio.get_running_loop().create_future()
        self._kills.add(kill)
        try:
            yield
        finally:
            self._kills.remove(kill)
            kill[1].set_result(None)

    async def kills_answered(self, exec_id: str) -> None:
        """Wait until no Kill of a process is in flight, some time at most.

        Who is told that a container is deleted closes its connection, whoever else
        waits there (containerd's CRI: a pod that is stopped would be told as an error).
        """
        if kills := [future for name, future in self._kills if name == exec_id]:
            await asyncio.wait(kills, timeout=STUCK_LIMIT_S)

    async def execs_quiet(self) -> None:
        """Wait until no operation on any exec is in flight."""
        while busy := [
            lock for exec_id, lock in self._locks.items() if exec_id and lock.locked()
        ]:
            async with busy[0]:
                pass

    # -- the exit, for those who wait

    async def exit_said(self, exec_id: str) -> Exit | None:
        """Wait until the exit of a process was said; None if it never lived.

        Any number may wait; cancelling ends one's own waiting only.

        Raises:
            NotFound: no such exec.
        """
        if self.task.is_over(exec_id):
            return self.task.snapshot(exec_id).exit
        return await asyncio.shield(self._waiters.on(exec_id))

    def never_lived(self, exec_id: str) -> None:
        """Let those go who wait for a process whose start has failed."""
        self._waiters.release(exec_id, None)


class _Waiters:
    """Those who wait for an exit: readers of the stream of events.

    The task speaks to them, and so must not find its entry here.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._say = emit
        self._futures: dict[str, asyncio.Future[Exit | None]] = {}

    def on(self, exec_id: str) -> asyncio.Future[Exit | None]:
        """Return what is done when the exit of a process was said, for all who wait."""
        future = self._futures.get(exec_id)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._futures[exec_id] = future
        return future

    def hear(self, event: Event) -> None:
        """Say an event, then let those go who waited for it."""
        self._say(event)
        match event:
            case TaskExit(container_id=id_, id=process):
                exec_id = INIT if process == id_ else process
                self.release(exec_id, Exit(event.exit_status, event.exited_at_ns))
            case TaskDelete(id=exec_id):
                self.release(exec_id, None)
            case _:
                pass

    def release(self, exec_id: str, exit_: Exit | None) -> None:
        """Let those go who wait for a process."""
        waiter = self._futures.pop(exec_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(exit_)
