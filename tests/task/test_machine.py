"""Single lines of the machine; all its states are visited by the walk."""

from __future__ import annotations

import pytest

from dunnage.errors import AlreadyExists, LocalProtocolError, NotFound
from dunnage.task.events import Event, Mount, TaskCreate, TaskDelete, TaskExit, TaskIO
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
    task, _ = running()
    with task.pausing() as pausing:
        pausing.commit()
        with pytest.raises(LocalProtocolError):
            pausing.commit()
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
