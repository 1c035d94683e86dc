"""The order oracle: what the contract demands of a stream of events.

One pure function, `judge`, over a recorded stream, of one shim or of many.
It knows nothing of who said it; what came of the client's own calls can be given too.

The contract is containerd's table of events and what its clients rely on since.
After a fault it goes on as if the event were right: one mistake, one fault, as far as
that can be told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from .said import Answered, Kind, Said


class Rule(StrEnum):
    """What can be broken; the value is how a report names it."""

    ENVELOPE = "envelope"
    """The topic fits the event; namespace, container, time and process are named."""
    CREATE_FIRST = "create-first"
    """Nothing of a task precedes its create."""
    SAID_ONCE = "said-once"
    """Create, start, exit, delete: once in the life of a process."""
    EXIT_AFTER_START = "exit-after-start"
    """No exit before the start that it raced with."""
    ADDED_FIRST = "added-first"
    """Nothing of an exec precedes its exec-added."""
    INIT_EXITS_LAST = "init-exits-last"
    """Nothing but deletes follows init's exit."""
    OOM_BEFORE_EXIT = "oom-before-exit"
    """An OOM kill is said before the exit that it caused."""
    DELETE_AFTER_EXIT = "delete-after-exit"
    """What was started is deleted after its exit only."""
    DELETE_LAST = "delete-last"
    """Nothing of a process follows its delete, and nothing of its execs the task's."""
    PAUSED_RUNNING = "paused-running"
    """Paused, resumed and checkpointed are said of a task that was started; resumed
    follows paused, and paused no other paused."""
    SAME_PROCESS = "same-process"
    """Every event of one process has the same pid."""
    SAME_EXIT = "same-exit"
    """Delete repeats the status and the time of the exit."""
    TIMES = "times"
    """Of one container the envelopes' times never decrease; an exit has a time, and
    was noticed before it was said."""
    WHOLE = "whole"
    """At the end of a whole stream every life is complete."""
    ANSWERS = "answers"
    """The events tell what the answers told."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule, and where in the stream it is broken (its length: at the end)."""

    rule: Rule
    at: int
    text: str

    def __str__(self) -> str:
        """Return one line of a report."""
        return f"{self.rule} at {self.at}: {self.text}"


def judge(
    stream: Iterable[Said],
    *,
    answers: Iterable[Answered] = (),
    is_whole: bool = False,
) -> list[Fault]:
    """Return every fault of ``stream``, in its order.

    Args:
        stream: the events as they came.
        answers: what the client was answered about some of the processes.
        is_whole: the stream holds all that will ever be said, and everything that was
            created was deleted before its end.
    """
    bench = _Bench()
    for said in stream:
        bench.hear(said)
    if is_whole:
        bench.close()
    for answer in answers:
        bench.compare(answer)
    return bench.faults


@dataclass(slots=True)
class _Life:
    """What was said of one process, init or exec."""

    created: bool = False
    """For an exec: added."""
    started: bool = False
    exited: Said | None = None
    deleted: bool = False
    pid: int = 0


@dataclass(slots=True)
class _Task:
    """What was said of one container in one life of it."""

    init: _Life = field(default_factory=_Life)
    execs: dict[str, _Life] = field(default_factory=dict)
    past: dict[str, _Life] = field(default_factory=dict)
    """Execs that were deleted; their ids are free again."""
    paused: bool = False
    last_ns: int = 0


class _Bench:
    """Hears a stream, event by event."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._tasks: dict[tuple[str, str], _Task] = {}
        self._at = 0
        self._said: Said | None = None

    def hear(self, said: Said) -> None:
        self._said = said
        task = self._task(said)
        self._envelope(task, said)
        match said.kind:
            case Kind.CREATE:
                self._create(task, said)
            case Kind.EXEC_ADDED:
                self._added(task, said)
            case Kind.DELETE if not said.exec_id:
                self._delete_task(task, said)
            case _:
                self._later(task, said)
        self._at += 1
        self._said = None

    # -- what the rest stands on

    def _fault(self, rule: Rule, text: str) -> None:
        about = f"{self._said}: " if self._said else ""
        self.faults.append(Fault(rule, self._at, about + text))

    def _demand(self, rule: Rule, holds: object, text: str) -> None:
        if not holds:
            self._fault(rule, text)

    def _task(self, said: Said) -> _Task:
        key = (said.namespace, said.container_id)
        task = self._tasks.get(key)
        # An id may be used again when its task is gone.
        is_next = task and task.init.deleted and said.kind is Kind.CREATE
        if task is None or is_next:
            last_ns = task.last_ns if task else 0
            task = self._tasks[key] = _Task(last_ns=last_ns)
        return task

    def _envelope(self, task: _Task, said: Said) -> None:
        rule = Rule.ENVELOPE
        self._demand(rule, said.topic == f"/tasks/{said.kind}", f"topic {said.topic!r}")
        self._demand(rule, said.namespace, "no namespace")
        self._demand(rule, said.container_id, "no container")
        if said.kind in {Kind.EXIT, Kind.EXEC_ADDED, Kind.EXEC_STARTED}:
            self._demand(rule, said.id, "names no process")
        if said.at_ns is None:
            self._fault(rule, "no time")
            return
        self._demand(Rule.TIMES, said.at_ns >= task.last_ns, "its time goes back")
        task.last_ns = max(task.last_ns, said.at_ns)

    # -- events that begin or end a life

    def _create(self, task: _Task, said: Said) -> None:
        if task.init.created:
            self._fault(Rule.SAID_ONCE, "created twice")
            return
        task.init.created = True
        task.init.pid = said.pid

    def _added(self, task: _Task, said: Said) -> None:
        if said.exec_id in task.execs:
            self._fault(Rule.SAID_ONCE, "added twice")
            return
        self._open(task)
        self._before_the_end(task)
        task.past.pop(said.exec_id, None)
        task.execs[said.exec_id] = _Life(created=True)

    def _delete_task(self, task: _Task, said: Said) -> None:
        if task.init.deleted:
            self._fault(Rule.SAID_ONCE, "deleted twice")
            return
        self._open(task)
        self._deleted(task.init, said)
        for exec_id, life in task.execs.items():
            self._demand(
                Rule.DELETE_LAST, life.deleted, f"exec {exec_id} was not deleted before"
            )

    # -- what happens between

    def _later(self, task: _Task, said: Said) -> None:
        self._open(task)
        life = self._life(task, said)
        match said.kind:
            case Kind.START | Kind.EXEC_STARTED:
                self._start(task, life, said)
            case Kind.EXIT:
                self._exit(task, life, said)
            case Kind.DELETE:
                self._deleted(life, said)
                task.past[said.exec_id] = task.execs.pop(said.exec_id, life)
            case Kind.OOM:
                self._demand(
                    Rule.OOM_BEFORE_EXIT, not task.init.exited, "after init's exit"
                )
            case _:
                self._running(task, said)

    def _open(self, task: _Task) -> None:
        if not task.init.created:
            self._fault(Rule.CREATE_FIRST, "before the task's create")
            task.init.created = True
        self._demand(Rule.DELETE_LAST, not task.init.deleted, "after the task's delete")

    def _before_the_end(self, task: _Task) -> None:
        self._demand(
            Rule.INIT_EXITS_LAST, not task.init.exited, "after the exit of init"
        )

    def _life(self, task: _Task, said: Said) -> _Life:
        """Return the life that an event belongs to; an exec's begins where it must."""
        exec_id = said.exec_id
        if not exec_id:
            return task.init
        if exec_id in task.execs:
            return task.execs[exec_id]
        if exec_id in task.past:
            twice = said.kind is Kind.DELETE
            rule = Rule.SAID_ONCE if twice else Rule.DELETE_LAST
            self._fault(rule, "deleted twice" if twice else "after its delete")
            return task.past[exec_id]
        self._fault(Rule.ADDED_FIRST, "the exec was not added")
        task.execs[exec_id] = _Life(created=True)
        return task.execs[exec_id]

    def _start(self, task: _Task, life: _Life, said: Said) -> None:
        if life.started:
            self._fault(Rule.SAID_ONCE, "started twice")
            return
        if life.exited:
            self._fault(Rule.EXIT_AFTER_START, "its exit was said before")
        else:
            self._before_the_end(task)
        self._demand(Rule.SAME_PROCESS, said.pid, "no pid")
        self._same_process(life, said)
        life.started = True

    def _exit(self, task: _Task, life: _Life, said: Said) -> None:
        if life.exited:
            self._fault(Rule.SAID_ONCE, "exited twice")
            return
        if life is not task.init:
            self._demand(Rule.EXIT_AFTER_START, life.started, "it was not started")
            self._before_the_end(task)
        else:
            for exec_id, other in task.execs.items():
                self._demand(
                    Rule.INIT_EXITS_LAST,
                    other.exited or not other.started,
                    f"exec {exec_id} has not exited",
                )
        self._same_process(life, said)
        has_time = said.exited_at_ns is not None
        self._demand(Rule.TIMES, has_time, "no time of the exit")
        if said.exited_at_ns is not None and said.at_ns is not None:
            self._demand(
                Rule.TIMES,
                said.exited_at_ns <= said.at_ns,
                "said before it was noticed",
            )
        life.exited = said

    def _deleted(self, life: _Life, said: Said) -> None:
        if life.exited:
            told = (life.exited.exit_status, life.exited.exited_at_ns)
            now = (said.exit_status, said.exited_at_ns)
            self._demand(Rule.SAME_EXIT, told == now, f"{now}, its exit said {told}")
        else:
            self._demand(
                Rule.DELETE_AFTER_EXIT, not life.started, "its exit was not said"
            )
        self._same_process(life, said)
        life.deleted = True

    def _same_process(self, life: _Life, said: Said) -> None:
        # A restored init has no pid before its start; what never lived has none.
        life.pid = life.pid or said.pid
        self._demand(
            Rule.SAME_PROCESS, said.pid == life.pid, f"pid {said.pid}, was {life.pid}"
        )

    def _running(self, task: _Task, said: Said) -> None:
        self._before_the_end(task)
        self._demand(Rule.PAUSED_RUNNING, task.init.started, "before the start")
        match said.kind:
            case Kind.PAUSED:
                self._demand(Rule.PAUSED_RUNNING, not task.paused, "paused already")
                task.paused = True
            case Kind.RESUMED:
                self._demand(Rule.PAUSED_RUNNING, task.paused, "not paused")
                task.paused = False
            case _:
                pass

    # -- the end

    def close(self) -> None:
        """Demand that every life is complete."""
        for (_, container_id), task in self._tasks.items():
            lives = {"": task.init} | task.past | task.execs
            for exec_id, life in lives.items():
                name = f"{container_id}{exec_id and '/' + exec_id}"
                ended = life.exited or not life.started
                self._demand(Rule.WHOLE, ended, f"the exit of {name} is missing")
                # An exec that is left when its task goes is a fault already.
                gone = life.deleted or (exec_id and task.init.deleted)
                self._demand(Rule.WHOLE, gone, f"the delete of {name} is missing")

    def compare(self, answer: Answered) -> None:
        """Demand that the events tell what an answer has told."""
        name = f"{answer.container_id}{answer.exec_id and '/' + answer.exec_id}"
        life = self._find(answer)
        told = life.exited
        for what, answered, said in (
            ("started", answer.was_started, life.started),
            ("pid", answer.pid, life.pid),
            ("exit status", answer.exit_status, told and told.exit_status),
            ("exited at", answer.exited_at_ns, told and told.exited_at_ns),
            ("deleted", answer.was_deleted, life.deleted),
        ):
            agrees = answered is None or answered == said
            self._demand(
                Rule.ANSWERS,
                agrees,
                f"{name}: {what}: answer {answered}, events {said}",
            )

    def _find(self, answer: Answered) -> _Life:
        for (_, container_id), task in self._tasks.items():
            if container_id == answer.container_id:
                lives = {"": task.init} | task.past | task.execs
                return lives.get(answer.exec_id, _Life())
        return _Life()
