"""One container as the shim keeps it, and the service on a runtime that can be told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from dunnage.api import task_v2_pb2 as pb
from dunnage.drivers.contract import (
    Checkpoint,
    Container,
    Creation,
    Driver,
    Hear,
    Process,
    Streams,
)
from dunnage.errors import Aborted, NotFound
from dunnage.host.cgroups import Stats
from dunnage.host.procs import Exited
from dunnage.shim import entry as entry_module
from dunnage.shim import expected as expected_module
from dunnage.shim.entry import Entry
from dunnage.shim.expected import EXPECTED_S, Expected
from dunnage.shim.service import TaskService
from dunnage.task.events import (
    Event,
    TaskCreate,
    TaskExecAdded,
    TaskExit,
    TaskPaused,
    TaskStart,
)
from dunnage.task.machine import INIT
from dunnage.task.states import Exit
from dunnage.ttrpc.aio.server import Context

from .harness import LIMIT_S, in_loop, until


def created(said: list[Event] | None = None) -> Entry:
    """Return the entry of a container with pid 7."""
    events: list[Event] = [] if said is None else said
    entry = Entry(TaskCreate("c", "/b"), events.append)
    with entry.task.creating() as creating:
        creating.commit(7)
    return entry


async def turns(count: int = 3) -> None:
    """Let everything that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- waiting for an exit


@in_loop
async def test_an_exit_is_returned_when_it_was_said() -> None:
    """Any number may wait, before and after; one who leaves takes nobody along."""
    entry = created()
    first = asyncio.ensure_future(entry.exit_said(INIT))
    second = asyncio.ensure_future(entry.exit_said(INIT))
    await turns()
    first.cancel()
    await turns()
    with entry.task.starting() as starting:
        entry.task.died(INIT, 3, 5)
        await turns()
        assert not second.done()  # known, but not said
        starting.commit()
    assert Exit(3, 5) == await second
    assert Exit(3, 5) == await entry.exit_said(INIT)


@in_loop
async def test_what_never_lived_has_no_exit() -> None:
    """Whoever waits for an exec that is deleted, or fails to start, is let go."""
    entry = created()
    for exec_id in ("a", "b"):
        with entry.task.adding(exec_id) as adding:
            adding.commit()
    waits = [asyncio.ensure_future(entry.exit_said(i)) for i in ("a", "b")]
    await turns()
    with entry.task.deleting("a") as deleting:
        deleting.commit()
    with entry.task.starting("b"):
        pass  # rolled back
    entry.never_lived("b")
    assert [None, None] == await asyncio.gather(*waits)
    assert await entry.exit_said("b") is None
    with pytest.raises(NotFound):
        await entry.exit_said("a")


# -- one at a time


@in_loop
async def test_turns_are_taken_process_by_process() -> None:
    """Two operations on one process follow each other; on two they do not."""
    entry = created()
    for exec_id in ("e", "f"):
        entry.add(exec_id, FakeProcess(), Streams())
    order: list[str] = []

    async def operate(exec_id: str, name: str) -> None:
        async with entry.turn(exec_id):
            order.append(f"{name} begins")
            await turns(2)
            order.append(f"{name} ends")

    await asyncio.gather(operate("e", "1"), operate("e", "2"), operate("f", "3"))
    assert order.index("1 ends") < order.index("2 begins")
    assert order.index("3 begins") < order.index("1 ends")


@in_loop
async def test_quiet_is_when_no_exec_is_busy() -> None:
    """Init's own operation does not count."""
    entry = created()
    entry.add("e", FakeProcess(), Streams())
    async with entry.turn(INIT):
        await entry.execs_quiet()
        async with entry.turn("e"):
            quiet = asyncio.ensure_future(entry.execs_quiet())
            await turns()
            assert not quiet.done()
        await quiet


@in_loop
async def test_an_exec_is_kept_until_it_is_forgotten() -> None:
    """And init is not there before its container is."""
    entry = created()
    with pytest.raises(NotFound, match="process does not exist"):
        entry.process(INIT)
    process = FakeProcess()
    entry.add("e", process, Streams())
    assert process is entry.process("e")
    assert {"e": process} == entry.execs
    entry.forget("e")
    with pytest.raises(NotFound, match="process does not exist e"):
        entry.process("e")


# -- starts that do not end


async def start_until(entry: Entry, future: asyncio.Future[None]) -> None:
    """Be the start of an exec."""
    async with entry.starting("e"):
        await future


@in_loop
async def test_a_start_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a death sets a limit, and an error of the start's own stays what it is."""
    monkeypatch.setattr(entry_module, "STUCK_LIMIT_S", 0.0)
    entry = created()
    entry.hurry()  # nothing is starting
    future = asyncio.get_running_loop().create_future()
    start = asyncio.create_task(start_until(entry, future))
    await turns()
    future.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        await start


@in_loop
async def test_a_start_is_given_up_when_init_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What does not end within the limit is cancelled, and says why."""
    monkeypatch.setattr(entry_module, "STUCK_LIMIT_S", 0.01)
    entry = created()
    future = asyncio.get_running_loop().create_future()
    start = asyncio.create_task(start_until(entry, future))
    await turns()
    entry.hurry()
    with pytest.raises(Aborted, match=r"^start of exec e: init is dead"):
        await start
    assert future.cancelled()


@in_loop
async def test_a_start_after_init_s_death_has_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exec that runs withholds the exit of an init that was only created."""
    monkeypatch.setattr(entry_module, "STUCK_LIMIT_S", 0.0)
    entry = created()
    with entry.task.adding("e") as adding:
        adding.commit()
    with entry.task.starting("e") as starting:
        starting.commit(8)
    entry.task.died(INIT, 9, 5)
    entry.hurry()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(Aborted, match=r"^start of init: init is dead"):
            async with entry.starting(INIT):
                await asyncio.get_running_loop().create_future()


# -- the service on a runtime that can be told


class FakeProcess(Process):
    """A process of nothing; its start takes as long as ``gate`` is not set."""

    def __init__(self, pid: int = 0) -> None:
        self.gate = asyncio.Event()
        self.kill_gate = asyncio.Event()
        self.was_given_up = False
        self._pid = pid
        self._hear: Hear | None = None
        self._gone: Exited | None = None

    @property
    def pid(self) -> int:
        return self._pid

    def listen(self, hear: Hear) -> None:
        self._hear = hear
        if self._gone:
            hear(self._gone)

    def die(self, status: int) -> None:
        """Be gone."""
        self._gone = Exited(status, 5)
        if self._hear:
            self._hear(self._gone)

    async def start(self) -> None:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.was_given_up = True
            raise
        self._pid = self._pid or 8

    async def kill(self, signum: int, *, everything: bool = False) -> None:
        """Hit nobody; it takes as long as ``kill_gate`` is not set."""
        assert (9, False) == (signum, everything)
        await self.kill_gate.wait()

    def close_stdin(self) -> None:
        """Have none."""

    def resize(self, width: int, height: int) -> None:
        """Have no terminal."""

    async def drained(self, limit_s: float) -> None:
        """Say nothing."""

    async def delete(self) -> None:
        """Leave nothing."""

    async def release(self) -> None:
        """Hold nothing."""


class FakeContainer(FakeProcess, Container):
    """A container of nothing."""

    init_is_outlived = False

    def __init__(self) -> None:
        super().__init__(pid=7)
        self.execs: dict[str, FakeProcess] = {}
        self.kills_of_all = 0
        self.pause_gate = asyncio.Event()
        self.done: list[str] = []
        self.on_kill_of_all: Callable[[], None] = lambda: None

    async def kill(self, signum: int, *, everything: bool = False) -> None:
        if everything:
            assert 9 == signum
            self.kills_of_all += 1
            self.done.append("kill all")
            self.on_kill_of_all()
        else:
            await super().kill(signum)

    def add_exec(self, exec_id: str, _spec: bytes, _streams: Streams) -> Process:
        return self.execs.setdefault(exec_id, FakeProcess())

    async def pause(self) -> None:
        self.done.append("pause")
        await self.pause_gate.wait()

    async def resume(self) -> None:
        self.done.append("resume")

    async def checkpoint(self, wanted: Checkpoint) -> None:
        self.done.append(f"checkpoint {wanted.path}")

    async def pids(self) -> list[int]:
        return [self.pid]

    async def stats(self) -> Stats:
        return Stats(2, {"pids": {"current": 1}})

    async def update(self, resources: bytes) -> None:
        self.done.append(f"update {resources!r}")


class FakeDriver(Driver):
    """Makes one container."""

    def __init__(self) -> None:
        self.container = FakeContainer()

    async def create(self, _creation: Creation) -> Container:
        return self.container


class Told:
    """A service, its runtime, and what it has said."""

    def __init__(self) -> None:
        self.driver = FakeDriver()
        self.said: list[Event] = []
        self.changed = asyncio.Event()
        self.left = 0
        self.now = 0.0
        self.expected = Expected(lambda: 0, lambda: self.now)
        self.service = TaskService(
            lambda _: self.driver, self._emit, self._leave, self.expected
        )

    def _emit(self, event: Event) -> None:
        self.said.append(event)
        self.changed.set()

    async def _leave(self) -> None:
        self.left += 1
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for an event after which the condition holds."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@in_loop
async def test_a_runtime_that_hangs_withholds_no_exit_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Init dies while the runtime is busy with an exec: that is killed in the end."""
    monkeypatch.setattr(entry_module, "STUCK_LIMIT_S", 0.05)
    told = Told()
    service, init, context = told.service, told.driver.container, Context()
    await service.create(pb.CreateTaskRequest(id="c", bundle=str(tmp_path)), context)
    init.gate.set()
    await service.start(pb.StartRequest(id="c"), context)
    await service.exec(pb.ExecProcessRequest(id="c", exec_id="e"), context)
    request = pb.StartRequest(id="c", exec_id="e")
    stuck = asyncio.create_task(service.start(request, context))
    await turns()
    init.die(9)
    await turns()
    kinds = [type(event) for event in told.said]
    assert [TaskCreate, TaskStart, TaskExecAdded] == kinds
    await told.until(lambda: isinstance(told.said[-1], TaskExit))
    assert init.execs["e"].was_given_up
    with pytest.raises(Aborted):
        await stuck
    assert told.said[-1] == TaskExit("c", "c", 7, 9, 5)
    await service.settled()
    deleted = await service.delete(pb.DeleteRequest(id="c"), context)
    assert 9 == deleted.exit_status


@in_loop
async def test_an_exec_that_comes_after_the_kill_is_killed_too(tmp_path: Path) -> None:
    """In a shared pid namespace it would live on, and withhold init's exit as long."""
    told = Told()
    service, init, context = told.service, told.driver.container, Context()
    init.init_is_outlived = True
    await service.create(pb.CreateTaskRequest(id="c", bundle=str(tmp_path)), context)
    init.gate.set()
    await service.start(pb.StartRequest(id="c"), context)
    await service.exec(pb.ExecProcessRequest(id="c", exec_id="e"), context)
    request = pb.StartRequest(id="c", exec_id="e")
    start = asyncio.create_task(service.start(request, context))
    await turns()
    init.die(9)
    await turns()
    assert 1 == init.kills_of_all

    init.on_kill_of_all = lambda: init.execs["e"].die(137)
    init.execs["e"].gate.set()
    await start
    await told.until(lambda: isinstance(told.said[-1], TaskExit))
    await service.settled()
    assert 2 == init.kills_of_all
    exits = [event.id for event in told.said if isinstance(event, TaskExit)]
    assert ["e", "c"] == exits


@pytest.mark.parametrize("exec_id", ["", "e"])
@pytest.mark.parametrize("ends", [True, False])
@in_loop
async def test_a_delete_is_answered_after_the_kill(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exec_id: str, ends: bool
) -> None:
    """Who deletes hangs up, whoever still waits for a Kill; if that hangs, it does."""
    monkeypatch.setattr(entry_module, "STUCK_LIMIT_S", 60.0 if ends else 0.05)
    told = Told()
    service, init, context = told.service, told.driver.container, Context()
    await service.create(pb.CreateTaskRequest(id="c", bundle=str(tmp_path)), context)
    init.gate.set()
    await service.start(pb.StartRequest(id="c"), context)
    victim: FakeProcess = init
    if exec_id:
        await service.exec(pb.ExecProcessRequest(id="c", exec_id="e"), context)
        victim = init.execs["e"]
        victim.gate.set()
        await service.start(pb.StartRequest(id="c", exec_id="e"), context)
    request = pb.KillRequest(id="c", exec_id=exec_id, signal=9)
    kill = asyncio.create_task(service.kill(request, context))
    await turns()
    victim.die(137)
    answers: list[str] = []
    kill.add_done_callback(lambda _: answers.append("kill"))
    deleted = pb.DeleteRequest(id="c", exec_id=exec_id)
    delete = asyncio.create_task(service.delete(deleted, context))
    delete.add_done_callback(lambda _: answers.append("delete"))
    await turns()
    assert [] == answers or not ends
    if ends:
        victim.kill_gate.set()
    await delete
    await turns()
    assert (["kill", "delete"] if ends else ["delete"]) == answers
    victim.kill_gate.set()
    await kill


@pytest.mark.parametrize("comes", [False, True])
@in_loop
async def test_a_shutdown_waits_for_who_is_coming(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, comes: bool
) -> None:
    """kept-for-those-who-come: if it never comes, the shim leaves unasked, and once."""
    monkeypatch.setattr(expected_module, "_LOOK_S", 0.001)
    told = Told()
    service, context = told.service, Context()
    for id_ in ("a", "b"):
        told.expected.add(id_)
    for _ in range(2):
        await service.shutdown(pb.ShutdownRequest(id="a"), context)
        assert 0 == told.left
    if comes:
        await service.create(
            pb.CreateTaskRequest(id="b", bundle=str(tmp_path)), context
        )
        await until(lambda: told.expected._timer is None)  # it has looked
        assert 0 == told.left
    else:
        told.now = EXPECTED_S
        await told.until(lambda: told.left > 0)
        await service.settled()
        assert 1 == told.left


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("when", ["paused", "pausing"])
@in_loop
async def test_what_its_init_leaves_frozen_is_thawed(
    tmp_path: Path, shares: bool, when: str
) -> None:
    """The others could neither be killed nor die; and a pause may end after init."""
    told = Told()
    service, init, context = told.service, told.driver.container, Context()
    init.init_is_outlived = shares
    await service.create(pb.CreateTaskRequest(id="c", bundle=str(tmp_path)), context)
    init.gate.set()
    await service.start(pb.StartRequest(id="c"), context)
    pausing = asyncio.create_task(service.pause(pb.PauseRequest(id="c"), context))
    await turns()
    if when == "paused":
        init.pause_gate.set()
        await pausing
        init.die(9)
    else:
        init.die(9)
        await turns()
        init.pause_gate.set()
        await pausing
    await service.settled()
    kill = ["kill all"] if shares else []
    early = kill if when == "pausing" else []
    assert ["pause", *early, "resume", *kill] == init.done
    kinds = [type(event) for event in told.said]
    assert [TaskCreate, TaskStart, TaskPaused, TaskExit] == kinds
    await service.delete(pb.DeleteRequest(id="c"), context)
