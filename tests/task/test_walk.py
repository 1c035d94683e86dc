"""Walks every reachable state of the lifecycle machine, for init and two execs.

From each state every operation is tried, succeeds and fails, and every process dies.
A small model beside the walk (`Shadow`) says what must be legal; `Oracle` judges
what is said.
The model sees only what was asked and what was said, never the inside of the machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from dunnage.errors import DunnageError, LocalProtocolError
from dunnage.task.events import (
    Event,
    TaskCheckpointed,
    TaskCreate,
    TaskDelete,
    TaskExecAdded,
    TaskExecStarted,
    TaskExit,
    TaskOOM,
    TaskPaused,
    TaskResumed,
    TaskStart,
)
from dunnage.task.machine import INIT, Operation, Task
from dunnage.task.states import Exit, Status
from dunnage.task.states import Operation as Op

from .oracle import Oracle

EXECS = ("a", "b")
PROCESSES = (INIT, *EXECS)
PIDS = {INIT: 100, "a": 101, "b": 102}
LASTING = (Op.CREATE, Op.START, Op.ADD, Op.PAUSE, Op.RESUME, Op.CHECKPOINT, Op.DELETE)


@dataclass(frozen=True)
class Shadow:
    """What the walk itself did: operations in flight, deaths, failed execs, OOM."""

    restores: bool
    in_flight: tuple[tuple[str, Op, bool], ...] = ()
    dead: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    over: bool = False
    oom: bool = False
    """An OOM kill came before the create was said."""

    def op(self, process: str) -> Op | None:
        """The operation in flight on a process."""
        return next((op for p, op, _ in self.in_flight if p == process), None)

    def is_committed(self, process: str) -> bool:
        """Whether that operation was committed."""
        return next((c for p, _, c in self.in_flight if p == process), False)

    def begin(self, process: str, op: Op) -> Shadow:
        """An operation begins."""
        flight = sorted([*self.in_flight, (process, op, False)])
        return replace(self, in_flight=tuple(flight))

    def commit(self, process: str) -> Shadow:
        """It is committed."""
        flight = [(p, op, c or p == process) for p, op, c in self.in_flight]
        return replace(self, in_flight=tuple(flight), oom=False)

    def leave(self, process: str) -> Shadow:
        """Its block is left; forget who never came to be, and who was deleted."""
        op, committed = self.op(process), self.is_committed(process)
        flight = tuple(f for f in self.in_flight if f[0] != process)
        after = replace(self, in_flight=flight)
        if op is Op.CREATE and not committed:
            return replace(after, over=True, dead=frozenset(), oom=False)
        if op is Op.START and not committed and process != INIT:
            after = replace(after, failed=after.failed | {process})
            return replace(after, dead=after.dead - {process})
        if op is Op.START and not committed and self.restores:
            return replace(after, dead=after.dead - {process})
        if op is Op.DELETE and committed:
            if process == INIT:
                return replace(after, over=True)
            return replace(
                after, dead=after.dead - {process}, failed=after.failed - {process}
            )
        return after


@dataclass(frozen=True)
class Node:
    """A reachable state: the machine as bytes, what was said, what was done."""

    state: bytes
    said: Oracle
    shadow: Shadow


class Stage:
    """The machine of a node, brought back from bytes, and what it says next."""

    def __init__(self, node: Node) -> None:
        self.said = node.said
        self.events: list[Event] = []
        self.task = Task.from_bytes(node.state, self.emit)

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.said = self.said.said(event)
        assert has_changed(self.task, event), f"said before it is so: {event}"

    def node(self, shadow: Shadow) -> Node:
        return Node(self.task.to_bytes(), self.said, shadow)


def has_changed(task: Task, event: Event) -> bool:
    """Whether the task already is what an event says, as it is said."""
    view = task.snapshot()
    match event:
        case TaskCreate(pid=pid):
            return (view.status, view.pid) == (Status.CREATED, pid)
        case TaskStart(pid=pid):
            return (view.status, view.pid) == (Status.RUNNING, pid)
        case TaskPaused():
            return view.status is Status.PAUSED
        case TaskResumed():
            return view.status is Status.RUNNING
        case TaskExecAdded(exec_id=exec_id):
            return exec_id in task.exec_ids
        case TaskExecStarted(exec_id=exec_id, pid=pid):
            return task.is_running(exec_id) and task.snapshot(exec_id).pid == pid
        case TaskExit(id=process, pid=pid, exit_status=status, exited_at_ns=at_ns):
            view = task.snapshot(INIT if process == "c" else process)
            return (view.pid, view.exit) == (pid, Exit(status, at_ns))
        case TaskDelete(id=""):
            return task.is_deleted
        case TaskDelete(id=exec_id):
            return exec_id not in task.exec_ids
        case _:
            return True


def first(*, restores: bool) -> Node:
    """The task before its create."""
    create = TaskCreate("c", checkpoint="/checkpoint" if restores else "")
    task = Task(create, lambda _event: None)
    return Node(task.to_bytes(), Oracle(), Shadow(restores))


def begin(task: Task, process: str, op: Op) -> Operation:
    """Ask the machine for an operation."""
    asks: dict[Op, Callable[[], Operation]] = {
        Op.CREATE: task.creating,
        Op.START: lambda: task.starting(process),
        Op.ADD: lambda: task.adding(process),
        Op.PAUSE: task.pausing,
        Op.RESUME: task.resuming,
        Op.CHECKPOINT: lambda: task.checkpointing("/checkpoint"),
        Op.DELETE: lambda: task.deleting(process),
    }
    return asks[op]()


def is_legal(node: Node, process: str, op: Op) -> bool:
    """What the contract says of an operation, from what was done and said."""
    said, shadow = node.said, node.shadow
    if op is Op.CREATE:
        return not said.created and not shadow.over and shadow.op(INIT) is None
    if not said.created or shadow.over:
        return False
    execs = dict(said.execs)
    init_busy = shadow.op(INIT) is not None
    deleting = shadow.op(INIT) is Op.DELETE
    if op is Op.ADD:
        is_free = process not in execs and shadow.op(process) is None
        lives = INIT not in shadow.dead and not said.paused and not deleting
        return is_free and lives and (said.started or not shadow.restores)
    if process == INIT:
        if init_busy:
            return False
        running = said.started and not said.exited
        match op:
            case Op.START:
                return not said.started and not said.exited
            case Op.PAUSE:
                return running and not said.paused
            case Op.RESUME:
                return running and said.paused
            case Op.CHECKPOINT:
                return running
            case _:
                exec_busy = any(shadow.op(e) for e in EXECS)
                return (not said.started or said.exited) and not exec_busy
    if process not in execs or shadow.op(process) is not None or deleting:
        return False
    life = execs[process]
    if op is Op.START:
        return (
            not life.started
            and process not in shadow.failed
            and INIT not in shadow.dead
            and not said.exited
        )
    return not life.started or life.exited


def may_die(node: Node, process: str) -> bool:
    """Whether there can be a process that dies now."""
    said, shadow = node.said, node.shadow
    if process in shadow.dead or shadow.over:
        return False
    if process == INIT:
        starts = shadow.op(INIT) is (Op.START if shadow.restores else Op.CREATE)
        lives = said.started if shadow.restores else said.created
        return (lives or starts) and not said.exited
    life = dict(said.execs).get(process)
    if life is None:
        return False
    return (life.started and not life.exited) or shadow.op(process) is Op.START


def steps(node: Node) -> Iterator[tuple[str, Node]]:
    """Everything that can happen next; refuses to let an illegal thing happen."""
    shadow = node.shadow
    for op in LASTING:
        for process in PROCESSES:
            if (op in {Op.CREATE, Op.PAUSE, Op.RESUME, Op.CHECKPOINT}) > (not process):
                continue
            if op is Op.ADD and not process:
                continue
            stage = Stage(node)
            if is_legal(node, process, op):
                begin(stage.task, process, op)
                assert not stage.events, "an operation says nothing before its commit"
                yield f"{op} {process}", stage.node(shadow.begin(process, op))
            else:
                with pytest.raises(DunnageError) as refusal:
                    begin(stage.task, process, op)
                assert refusal.type is not LocalProtocolError
                assert stage.task.to_bytes() == node.state, "a refusal changes nothing"
    for process, op, committed in shadow.in_flight:
        if not committed:
            stage = Stage(node)
            operation = stage.task.operation(process)
            if op is Op.DELETE and must_wait(node, process):
                with pytest.raises(LocalProtocolError):
                    operation.commit()
                assert stage.task.to_bytes() == node.state, "a refusal changes nothing"
            else:
                operation.commit(pid_for(shadow, process, op))
                # Of what is left the order is that of the adding, which is not known.
                *others, last = said_by(node, process, op)
                assert last == stage.events[-1]
                assert sorted(map(str, others)) == sorted(map(str, stage.events[:-1]))
                yield f"commit {op} {process}", stage.node(shadow.commit(process))
        stage = Stage(node)
        stage.task.operation(process).__exit__(None, None, None)
        yield f"leave {op} {process}", stage.node(shadow.leave(process))
    for process in PROCESSES:
        stage = Stage(node)
        if may_die(node, process):
            stage.task.died(process, 7, 1_000)
            after = replace(shadow, dead=shadow.dead | {process})
            yield f"death of {process}", stage.node(after)
    stage = Stage(node)
    is_late = shadow.over or node.said.exited or node.said.deleted
    assert stage.task.oom_killed() == (not is_late)
    is_first = not is_late and not node.said.created
    said = [] if is_late or is_first else [TaskOOM("c")]
    assert said == stage.events
    yield "oom", stage.node(replace(shadow, oom=is_first))


def said_by(node: Node, process: str, op: Op) -> list[Event]:
    """What the commit of an operation has to say."""
    shadow = node.shadow
    pid = pid_for(shadow, process, op)
    match op:
        case Op.CREATE:
            checkpoint = "/checkpoint" if shadow.restores else ""
            create = TaskCreate("c", checkpoint=checkpoint, pid=pid)
            return [create, TaskOOM("c")] if shadow.oom else [create]
        case Op.ADD:
            return [TaskExecAdded("c", process)]
        case Op.START if process:
            return [TaskExecStarted("c", process, pid)]
        case Op.START:
            return [TaskStart("c", PIDS[INIT])]
        case Op.PAUSE:
            return [TaskPaused("c")]
        case Op.RESUME:
            return [TaskResumed("c")]
        case Op.CHECKPOINT:
            return [TaskCheckpointed("c", "/checkpoint")]
        case _:
            left = () if process else (e for e, _ in node.said.execs)
            return [deleted(node, each) for each in (*left, process)]


def deleted(node: Node, process: str) -> TaskDelete:
    """The delete event of a process."""
    said = node.said
    if process:
        lived = dict(said.execs)[process].started
    else:
        lived = said.started if node.shadow.restores else said.created
    status, at_ns = (7, 1_000) if process in node.shadow.dead else (0, None)
    return TaskDelete("c", PIDS[process] if lived else 0, status, at_ns, process)


def pid_for(shadow: Shadow, process: str, op: Op) -> int:
    """The pid that a driver would commit with: a restored init has none at first."""
    comes_to_be = op is (Op.START if process or shadow.restores else Op.CREATE)
    return PIDS[process] if comes_to_be else 0


def must_wait(node: Node, process: str) -> bool:
    """Whether a delete has still to wait for an exit that was not said."""
    said = node.said
    if process:
        return False
    lives = said.started if node.shadow.restores else said.created
    execs_live = any(life.started and not life.exited for _, life in said.execs)
    return (lives and not said.exited) or execs_live


def unsaid(node: Node) -> set[str]:
    """Deaths of processes that came to be, and that were not said."""
    said = node.said
    execs = dict(said.execs)
    missing = {
        process
        for process in node.shadow.dead & execs.keys()
        if execs[process].started and not execs[process].exited
    }
    came_to_be = said.started if node.shadow.restores else said.created
    if INIT in node.shadow.dead and came_to_be and not said.exited:
        missing.add(INIT)
    return missing


def check_at_rest(node: Node) -> None:
    """A death is withheld only for a reason that the rules name."""
    for process in unsaid(node):
        own = node.shadow.op(process)
        reasons = own not in {None, Op.DELETE}
        if process == INIT:
            reasons |= any(
                (life.started and not life.exited) for _, life in node.said.execs
            )
            reasons |= any(node.shadow.op(e) in {Op.START, Op.ADD} for e in EXECS)
        assert reasons, f"{process!r} is withheld for no reason: {node}"


def check_not_for_ever(node: Node, *, succeed: bool) -> None:
    """When operations end, and a dead init's execs die, every death is told."""
    for process, op, committed in node.shadow.in_flight:
        stage = Stage(node)
        operation = stage.task.operation(process)
        shadow = node.shadow
        wants = succeed and not committed
        if wants and not (op is Op.DELETE and must_wait(node, process)):
            operation.commit(pid_for(shadow, process, op))
            shadow = shadow.commit(process)
        operation.__exit__(None, None, None)
        node = stage.node(shadow.leave(process))
    if INIT in node.shadow.dead:
        for exec_id in EXECS:
            if may_die(node, exec_id):
                stage = Stage(node)
                stage.task.died(exec_id, 137, 2_000)
                shadow = replace(node.shadow, dead=node.shadow.dead | {exec_id})
                node = stage.node(shadow)
    assert not unsaid(node), f"never told: {unsaid(node)}"


def check_views(node: Node) -> None:
    """State and Wait agree with what was said; bytes bring everything back."""
    stage = Stage(node)
    again = Task.from_bytes(stage.task.to_bytes(), stage.emit)
    assert vars(again) == vars(stage.task)
    said = node.said
    if not said.created or node.shadow.over:
        return
    assert set(stage.task.exec_ids) == set(dict(said.execs))
    assert stage.task.is_running(INIT) == (said.started and not said.exited)
    view = stage.task.snapshot()
    assert (view.exit is not None) == said.exited
    assert stage.task.is_over() == (said.exited or said.deleted)
    if said.exited:
        assert view.status == Status.STOPPED
    for exec_id, life in said.execs:
        assert stage.task.is_running(exec_id) == (life.started and not life.exited)
        view = stage.task.snapshot(exec_id)
        assert (view.exit is not None) == life.exited
        assert stage.task.is_over(exec_id) == (
            life.exited or exec_id in node.shadow.failed
        )


def walk(start: Node) -> dict[Node, tuple[Node, str] | None]:
    """Visit every reachable node once; return who led to whom."""
    seen: dict[Node, tuple[Node, str] | None] = {start: None}
    todo = deque([start])
    while todo:
        node = todo.popleft()
        try:
            check_views(node)
            check_at_rest(node)
            check_not_for_ever(node, succeed=True)
            check_not_for_ever(node, succeed=False)
            for name, after in steps(node):
                if after not in seen:
                    seen[after] = (node, name)
                    todo.append(after)
        except (AssertionError, pytest.fail.Exception) as failure:
            failure.add_note("reached by: " + " · ".join(path_to(node, seen)))
            raise
    return seen


def path_to(node: Node, seen: dict[Node, tuple[Node, str] | None]) -> list[str]:
    """The steps that lead to a node."""
    path: list[str] = []
    while (origin := seen[node]) is not None:
        node, name = origin
        path.append(name)
    return path[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("restores", [False, True])
def test_every_reachable_state_keeps_the_contract(restores: bool) -> None:
    """exit-after-start, init-exits-last, said-once, legality, and nothing withheld."""
    seen = walk(first(restores=restores))

    assert len(seen) > 5_000
    assert any(node.said.deleted for node in seen)
    assert any(node.said.exited and node.said.paused for node in seen)
    assert any(len(unsaid(node)) == len(PROCESSES) for node in seen)
    print(f"walked {len(seen)} states")  # noqa: T201  # the figure is of interest


def test_the_walk_finds_a_planted_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not hold init's exit back for its execs is caught."""

    def settle_at_once(task: Task) -> None:
        for exec_id, process in [*task._execs(), (INIT, task._init)]:
            task._tell(exec_id, process)

    monkeypatch.setattr(Task, "_settle", settle_at_once)
    with pytest.raises(AssertionError, match=r"exit"):
        walk(first(restores=False))


def test_an_exit_carries_what_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit event has the pid of the start, and the status and time of the death."""
    events: list[Event] = []
    task = Task(TaskCreate("c"), events.append)
    with task.creating() as creating:
        creating.commit(100)
    with task.starting() as starting:
        task.died(INIT, 3, 42)
        starting.commit()

    assert TaskExit("c", "c", 100, 3, 42) == events[-1]
