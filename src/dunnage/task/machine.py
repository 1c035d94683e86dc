"""The lifecycle machine: what may happen to a task, and in which order it is said.

House rules.
Everything here is synchronous: between "state changed" and "event emitted" no other
code runs, so order is produced here and never repaired later.
Nothing here knows a process, a clock, a loop or a wire; deaths and times come from
outside, events leave through one callable.

An *operation* is a ``with`` block around the slow part.
Entering it checks legality and marks the process; `Operation.commit` changes the state
and emits; leaving it uncommitted rolls back; leaving it, either way, frees the exits
that waited for it.

Two rules withhold an exit, both in `Task._settle`:

* an exit waits for the operation in flight on its own process, except a delete, which
  itself waits for the exit;
* init's exit waits for every exec that runs, is starting or is being added.

Neither can wait for ever as long as each operation ends and each exec of a dead init
dies: a dead init admits no further exec, and no further start of one.

Invariant (exit-after-start): no exit is emitted before the start that it raced with.
Invariant (init-exits-last): nothing but deletes follows init's exit.
Invariant (said-once): each event at most once per process, every death told in the end.
Invariant (oom-before-exit): an OOM kill reported before a death is emitted before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

from dunnage.errors import (
    AlreadyExists,
    FailedPrecondition,
    LocalProtocolError,
    NotFound,
    Unknown,
)

from . import record, table
from .events import (
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
from .record import Process
from .states import Exit, Snapshot, State, Status
from .states import Operation as Op

INIT = ""
"""The exec id that stands for init, as on the wire."""

_STATUS = {
    State.COMING: Status.UNKNOWN,
    State.CREATED: Status.CREATED,
    State.RESTORABLE: Status.CREATED,
    State.FAILED: Status.CREATED,
    State.RUNNING: Status.RUNNING,
    State.PAUSED: Status.PAUSED,
    State.STOPPED: Status.STOPPED,
    State.DELETED: Status.STOPPED,
}


class Task:
    """The life of one container: init, its execs, and the events that they say.

    Args:
        create: the create event to say when the create commits; its pid is filled in.
            A task with a checkpoint has no process until it is started.
        emit: takes each event, synchronously; must neither block nor fail.
            The task has changed already, and can be asked.
    """

    def __init__(self, create: TaskCreate, emit: Callable[[Event], None]) -> None:
        self.id = create.container_id
        self._create = create
        self._emit = emit
        self._oom_before_create = False
        self._processes: dict[str, Process] = {INIT: Process()}

    # -- operations

    def creating(self) -> Operation:
        """Begin the creation of the task; `Operation.commit` takes init's pid.

        A task whose create was rolled back is over: nothing was said, nothing will be.
        """
        if self._init.state is not State.COMING or self._init.op is not None:
            raise AlreadyExists(f"id {self.id}")
        return self._begin(INIT, Op.CREATE)

    def adding(self, exec_id: str) -> Operation:
        """Reserve ``exec_id`` and begin to add the exec.

        Raises:
            AlreadyExists: the id is taken, or being added, or is the container's.
            FailedPrecondition: the task is being deleted.
            DunnageError: init's state does not admit an exec.
        """
        # The container's id is taken too: an exit of that name is init's to everybody.
        # (The Go shim admits it, and its clients lose the container when it ends.)
        if exec_id in self._processes or exec_id == self.id:
            raise AlreadyExists(f"id {exec_id}")
        self._refuse_while_deleting()
        self._check(INIT, Op.EXEC)
        if self._init.death is not None:  # known, but not said yet
            raise Unknown("cannot exec in a stopped state")
        self._processes[exec_id] = Process()
        return self._begin(exec_id, Op.ADD)

    def starting(self, exec_id: str = INIT) -> Operation:
        """Begin a start; `Operation.commit` takes the pid (init's may be left out)."""
        self._check(exec_id, Op.START)
        if exec_id != INIT and self._init.death is not None:
            raise FailedPrecondition(f"container {self.id} init process is not running")
        return self._begin(exec_id, Op.START)

    def pausing(self) -> Operation:
        """Begin to freeze the container."""
        self._check(INIT, Op.PAUSE)
        return self._begin(INIT, Op.PAUSE)

    def resuming(self) -> Operation:
        """Begin to thaw the container."""
        self._check(INIT, Op.RESUME)
        return self._begin(INIT, Op.RESUME)

    def checkpointing(self, path: str) -> Operation:
        """Begin to write a checkpoint to ``path``."""
        self._check(INIT, Op.CHECKPOINT)
        return self._begin(INIT, Op.CHECKPOINT, path)

    def deleting(self, exec_id: str = INIT) -> Operation:
        """Begin a delete; commit it only when the exit, if there is one, was said.

        Deleting init removes what execs are left; it begins only while no operation
        on an exec is in flight, and none begins until it ends.
        """
        self._check(exec_id, Op.DELETE)
        if exec_id == INIT:
            for other, process in self._execs():
                if process.op is not None:
                    raise FailedPrecondition(f"{process.op} of {other} is in flight")
        return self._begin(exec_id, Op.DELETE)

    def operation(self, exec_id: str = INIT) -> Operation:
        """Take up the operation in flight, for instance in a successor process."""
        if self._process(exec_id).op is None:
            raise LocalProtocolError(f"no operation is in flight on {exec_id!r}")
        return Operation(self, exec_id)

    # -- what the world reports

    def died(self, exec_id: str, status: int, at_ns: int) -> None:
        """Take the news that a process is gone; it is said as soon as order allows.

        May come at any moment of an operation in flight, also before its commit; if
        the process then never came to be (the create or start failed), it is dropped.

        Args:
            exec_id: the exec, or `INIT`.
            status: 0–255, or 128 + signal.
            at_ns: when the exit was noticed.
        """
        process = self._process(exec_id)
        lives = process.pid or process.op in {Op.CREATE, Op.START}
        if not lives or process.death is not None or process.state is State.DELETED:
            raise LocalProtocolError(f"{exec_id!r} cannot die now: {process}")
        process.death = Exit(status, at_ns)
        self._settle()

    def oom_killed(self) -> bool:
        """Take the news that the cgroup killed something for want of memory.

        Returns:
            Whether it was, or will be, said: nothing follows the exit of init.
        """
        init = self._init
        if init.state in {State.STOPPED, State.DELETED}:
            return False
        if init.state is State.COMING:
            self._oom_before_create = True
        else:
            self._emit(TaskOOM(self.id))
        return True

    # -- what one may ask

    @property
    def exec_ids(self) -> tuple[str, ...]:
        """The execs that were added and not deleted."""
        return tuple(i for i, p in self._execs() if p.is_public)

    @property
    def is_deleted(self) -> bool:
        """Whether the task is over: deleted, or never created."""
        return self._init.state is State.DELETED

    @property
    def init_is_dead(self) -> bool:
        """Whether init's death is known, said or not."""
        return self._init.death is not None

    def operation_in_flight(self, exec_id: str = INIT) -> Op | None:
        """Say what is being done to a process."""
        return self._process(exec_id).op

    def is_running(self, exec_id: str) -> bool:
        """Whether the process was started and its exit was not said."""
        return self._process(exec_id).state in {State.RUNNING, State.PAUSED}

    def snapshot(self, exec_id: str = INIT) -> Snapshot:
        """Describe a process as State reports it.

        An exec of a container that is paused, or being paused, reports that.

        Raises:
            NotFound: no such exec.
        """
        process = self._public(exec_id)
        status = _STATUS[process.state]
        init = self._init
        if init.state is State.PAUSED:
            status = Status.PAUSED
        elif init.op is Op.PAUSE:
            status = Status.PAUSING
        said = process.state in {State.STOPPED, State.DELETED}
        return Snapshot(status, process.pid, process.death if said else None)

    def is_over(self, exec_id: str = INIT) -> bool:
        """Whether Wait has nothing left to wait for: exited and said, or never to live.

        Raises:
            NotFound: no such exec.
        """
        over = {State.STOPPED, State.FAILED, State.DELETED}
        return self._public(exec_id).state in over

    def check(self, operation: Op, exec_id: str = INIT) -> None:
        """Raise the refusal if ``operation``, one that changes no state, is illegal."""
        self._check(exec_id, operation)

    # -- bytes

    def to_bytes(self) -> bytes:
        """Return the whole state; `from_bytes` continues from it, mid-operation too."""
        state = {
            "create": record.create_to_json(self._create),
            "oom": self._oom_before_create,
            "processes": {i: p.to_json() for i, p in self._processes.items()},
        }
        return json.dumps(state, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, emit: Callable[[Event], None]) -> Self:
        """Return the task whose `to_bytes` gave ``data``."""
        state = json.loads(data)
        task = cls(record.create_from_json(state["create"]), emit)
        task._oom_before_create = state["oom"]
        task._processes = {
            exec_id: Process.from_json(fields)
            for exec_id, fields in state["processes"].items()
        }
        return task

    # -- the inside of an operation

    def _begin(self, exec_id: str, op: Op, argument: str = "") -> Operation:
        process = self._processes[exec_id]
        process.op, process.committed, process.argument = op, False, argument
        return Operation(self, exec_id)

    def _commit(self, exec_id: str, pid: int) -> None:
        process = self._processes[exec_id]
        if process.committed:
            raise LocalProtocolError(f"{process.op} of {exec_id!r} committed twice")
        match process.op:
            case Op.CREATE:
                self._commit_create(process, pid)
            case Op.ADD:
                process.state = State.CREATED
                self._emit(TaskExecAdded(self.id, exec_id))
            case Op.START:
                self._commit_start(exec_id, process, pid)
            case Op.PAUSE:
                process.state = State.PAUSED
                self._emit(TaskPaused(self.id))
            case Op.RESUME:
                process.state = State.RUNNING
                self._emit(TaskResumed(self.id))
            case Op.CHECKPOINT:
                self._emit(TaskCheckpointed(self.id, process.argument))
            case Op.DELETE:
                self._commit_delete(exec_id, process)
            case _:
                raise LocalProtocolError(f"no operation is in flight on {exec_id!r}")
        process.committed = True

    def _commit_create(self, init: Process, pid: int) -> None:
        init.pid = pid
        init.state = State.RESTORABLE if self._create.checkpoint else State.CREATED
        self._emit(replace(self._create, pid=pid))
        if self._oom_before_create:
            self._oom_before_create = False
            self._emit(TaskOOM(self.id))

    def _commit_start(self, exec_id: str, process: Process, pid: int) -> None:
        process.pid = pid or process.pid
        process.state = State.RUNNING
        if exec_id == INIT:
            self._emit(TaskStart(self.id, process.pid))
        else:
            self._emit(TaskExecStarted(self.id, exec_id, process.pid))

    def _commit_delete(self, exec_id: str, process: Process) -> None:
        doomed = [(exec_id, process)] if exec_id else [*self._execs(), (INIT, process)]
        for _, each in doomed:
            if each.pid and each.state is not State.STOPPED:
                raise LocalProtocolError(f"delete before the exit was said: {each}")
        for each_id, each in doomed:
            status, at_ns = each.death or (0, None)
            each.state = State.DELETED
            self._emit(TaskDelete(self.id, each.pid, status, at_ns, each_id))
            if each_id != exec_id:
                del self._processes[each_id]

    def _leave(self, exec_id: str) -> None:
        process = self._processes[exec_id]
        if not process.committed:
            self._roll_back(exec_id, process)
        elif process.op is Op.DELETE and exec_id:
            # Only now is the id free: a new exec of that name must not meet this block.
            del self._processes[exec_id]
        process.op, process.committed, process.argument = None, False, ""
        self._settle()

    def _roll_back(self, exec_id: str, process: Process) -> None:
        match process.op:
            case Op.CREATE:
                process.state, process.death = State.DELETED, None
                self._oom_before_create = False
            case Op.ADD:
                del self._processes[exec_id]
            case Op.START if not process.pid:
                # Whatever died had not become this process: nobody was told of it.
                process.death = None
                if exec_id:
                    process.state = State.FAILED
            case _:
                pass

    def _settle(self) -> None:
        """Say every exit that nothing withholds any more: execs' first, then init's."""
        for exec_id, process in self._execs():
            self._tell(exec_id, process)
        if not any(process.is_unfinished for _, process in self._execs()):
            self._tell(INIT, self._init)

    def _tell(self, exec_id: str, process: Process) -> None:
        said = process.state in {State.STOPPED, State.DELETED}
        if process.death is None or said or process.is_withheld:
            return
        process.state = State.STOPPED
        status, at_ns = process.death
        self._emit(
            TaskExit(self.id, exec_id or self.id, process.pid, status, at_ns),
        )

    # -- small change

    @property
    def _init(self) -> Process:
        return self._processes[INIT]

    def _execs(self) -> Iterator[tuple[str, Process]]:
        return ((i, p) for i, p in list(self._processes.items()) if i != INIT)

    def _process(self, exec_id: str) -> Process:
        try:
            return self._processes[exec_id]
        except KeyError:
            raise NotFound(f"process does not exist {exec_id}") from None

    def _public(self, exec_id: str) -> Process:
        process = self._process(exec_id)
        if exec_id and not process.is_public:
            raise NotFound(f"process does not exist {exec_id}")
        return process

    def _check(self, exec_id: str, op: Op) -> None:
        process = self._public(exec_id)
        changes = op in {Op.START, Op.PAUSE, Op.RESUME, Op.CHECKPOINT, Op.DELETE}
        if changes and process.op is not None:
            raise FailedPrecondition(
                f"{process.op} of {exec_id or self.id} is in flight"
            )
        if changes and exec_id:
            self._refuse_while_deleting()
        refusal = table.verdict(op, process.state, is_exec=bool(exec_id))
        if refusal is not None:
            try:
                raise refusal
            finally:
                # Its traceback leads here, and to us: we would outlive our delete.
                del refusal

    def _refuse_while_deleting(self) -> None:
        if self._init.op is Op.DELETE:
            raise FailedPrecondition(f"container {self.id} is being deleted")


class Operation:
    """One operation in flight: commit it, and leave the block."""

    __slots__ = ("_exec_id", "_task")

    def __init__(self, task: Task, exec_id: str) -> None:
        self._task = task
        self._exec_id = exec_id

    def commit(self, pid: int = 0) -> None:
        """Make it so: change the state and emit the event, before anything else runs.

        Raises:
            LocalProtocolError: committed twice, or a delete whose exit was not said.
        """
        self._task._commit(self._exec_id, pid)  # noqa: SLF001  # one machine, two faces

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Roll back if it was not committed; free the exits that waited for it."""
        self._task._leave(self._exec_id)  # noqa: SLF001  # one machine, two faces
