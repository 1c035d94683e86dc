"""Single lines of the machine; all its states are visited by the walk."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest

from dunnage.errors import (
    AlreadyExists,
    FailedPrecondition,
    LocalProtocolError,
    NotFound,
    Unknown,
)
from dunnage.task.events import (
    Event,
    Mount,
    TaskCreate,
    TaskDelete,
    TaskExit,
    TaskIO,
    TaskPaused,
)
from dunnage.task.machine import INIT, Task
from dunnage.task.states import Exit, Operation, Snapshot, Status

CREATE = TaskCreate(
    "c",
    bundle="/b",
    rootfs=(Mount("bind", "/s", "", ("rbind", "ro")),),
    io=TaskIO("/in", "/out", "", terminal=False),
)


def running() -> tuple[Task, list[Event]]:
    """A task whose init runs, and what it said."""
    events: list[Event] = []
    task = Task(CREATE, events.append)
    with task.creating() as creating:
        creating.commit(100)
    with task.starting() as starting:
        starting.commit()
    return task, events


def with_exec(task: Task, exec_id: str, pid: int) -> None:
    """Add and start an exec."""
    with task.adding(exec_id) as adding:
        adding.commit()
    with task.starting(exec_id) as starting:
        starting.commit(pid)


def test_the_create_event_carries_the_request() -> None:
    """Bundle, root filesystem and streams are said as requested, with the pid."""
    _, events = running()

    assert TaskCreate("c", "/b", CREATE.rootfs, CREATE.io, "", 100) == events[0]


def test_a_pause_in_flight_is_seen_by_init_and_execs() -> None:
    """State says pausing while the pause runs, then paused, of execs too."""
    task, _ = running()
    with_exec(task, "e", 101)
    with task.pausing() as pausing:
        assert task.snapshot().status is Status.PAUSING
        assert task.snapshot("e").status is Status.PAUSING
        pausing.commit()
    assert task.snapshot() == Snapshot(Status.PAUSED, 100, None)
    assert task.snapshot("e").status is Status.PAUSED
    with task.resuming() as resuming:
        resuming.commit()
    assert task.snapshot("e").status is Status.RUNNING


def test_deleting_the_task_says_the_deletes_of_its_execs_first() -> None:
    """An exec that nobody deleted is gone with the task, and said so."""
    task, events = running()
    with_exec(task, "e", 101)
    with task.adding("never-started") as adding:
        adding.commit()
    task.died("e", 1, 10)
    task.died(INIT, 2, 20)
    with task.deleting() as deleting:
        deleting.commit()
    assert [
        TaskDelete("c", 101, 1, 10, "e"),
        TaskDelete("c", 0, 0, None, "never-started"),
        TaskDelete("c", 100, 2, 20),
    ] == events[-3:]
    assert task.is_deleted
    with pytest.raises(NotFound):  # nothing remembers it
        task.operation_in_flight("never-started")


def test_the_exit_of_init_waits_for_its_execs() -> None:
    """State and Wait know of the exit when it was said, not before."""
    task, events = running()
    with_exec(task, "e", 101)
    task.died(INIT, 137, 10)
    assert task.init_is_dead
    assert not task.is_over()
    assert task.snapshot().exit is None
    task.died("e", 137, 20)
    assert [
        TaskExit("c", "e", 101, 137, 20),
        TaskExit("c", "c", 100, 137, 10),
    ] == events[-2:]
    assert task.snapshot().exit == Exit(137, 10)


def test_misuse_is_a_local_error() -> None:
    """A second commit, a second death, an operation that is not there."""
    task, events = running()
    with task.pausing() as pausing:
        pausing.commit()
        with pytest.raises(LocalProtocolError):
            pausing.commit()
    assert [TaskPaused("c")] == events[2:], "the second says nothing"
    with pytest.raises(LocalProtocolError):
        task.operation()
    with pytest.raises(LocalProtocolError):
        pausing.commit()
    task.died(INIT, 0, 1)
    with pytest.raises(LocalProtocolError):
        task.died(INIT, 0, 1)


def test_unknown_and_taken_execs() -> None:
    """An unknown exec is not found; a taken id, even while it is added, exists."""
    task, _ = running()
    for ask in (task.snapshot, task.is_over, task.starting, task.deleting):
        with pytest.raises(NotFound, match="process does not exist e"):
            ask("e")
    with task.adding("e") as adding:
        for taken in ("e", INIT, "c"):  # an exit of "c" would be taken for init's
            with pytest.raises(AlreadyExists, match=f"id {taken}"):
                task.adding(taken)
        with pytest.raises(NotFound):
            task.snapshot("e")
        assert not task.exec_ids
        adding.commit()
    assert task.exec_ids == ("e",)
    assert not task.is_running("e")
    assert task.operation_in_flight("e") is None
    task.check(Operation.RESIZE, "e")


def test_of_several_refusals_the_nearest_is_named() -> None:
    """A taken id, then an operation in flight, then the state, then an unsaid death."""
    task, _ = running()
    with_exec(task, "e", 101)
    with task.adding("f") as adding:
        adding.commit()
    with task.starting("f"):
        with pytest.raises(FailedPrecondition, match=r"^start of f is in flight"):
            task.deleting("f")
        with pytest.raises(Unknown, match="cannot delete a running process"):
            task.deleting()
    with task.pausing() as pausing:
        with pytest.raises(FailedPrecondition, match=r"^pause of c is in flight"):
            task.deleting()
        pausing.commit()
    task.died(INIT, 0, 1)
    with pytest.raises(Unknown, match="cannot exec in a paused state"):
        task.adding("g")
    with pytest.raises(Unknown, match="cannot start a running process"):
        task.starting("e")
    task.died("e", 0, 2)
    with task.deleting():
        with pytest.raises(AlreadyExists):
            task.adding("e")
        with pytest.raises(FailedPrecondition, match="is being deleted"):
            task.adding("g")


def test_what_changes_nothing_is_checked_too() -> None:
    """A kill is refused of what is deleted, and not of what runs."""
    task, _ = running()
    task.check(Operation.KILL)
    task.died(INIT, 0, 1)
    with task.deleting() as deleting:
        deleting.commit()
    with pytest.raises(NotFound, match="cannot kill a deleted process"):
        task.check(Operation.KILL)


def test_of_an_early_oom_kill_nothing_is_left() -> None:
    """Said with the create, or never: the task is as if there had been none."""
    for succeeds in (True, False):
        tasks = [Task(CREATE, lambda _: None) for _ in range(2)]
        for task, has_oom in zip(tasks, (True, False), strict=True):
            with task.creating() as creating:
                if has_oom:
                    assert task.oom_killed()
                if succeeds:
                    creating.commit(100)
        assert tasks[0].to_bytes() == tasks[1].to_bytes()


def test_a_refusal_keeps_nobody() -> None:
    """Without the collector a task goes with its last owner, whatever was refused."""
    task, _ = running()
    alive = weakref.ref(task)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with contextlib.suppress(Unknown):
            task.check(Operation.START)
        del task
        assert alive() is None
    finally:
        if was_enabled:
            gc.enable()
