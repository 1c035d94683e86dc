"""The events that a task says, as values.

Names and fields are those of containerd's ``containerd.events`` messages, so that the
translation to the wire is a table.
Times are nanoseconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Mount:
    """One component of a root filesystem (``containerd.types.Mount``)."""

    type: str = ""
    source: str = ""
    target: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskIO:
    """Where the streams of a process go, as requested."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class TaskCreate:
    """The task was created; nothing runs in it yet."""

    container_id: str
    bundle: str = ""
    rootfs: tuple[Mount, ...] = ()
    io: TaskIO = field(default_factory=TaskIO)
    checkpoint: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class TaskStart:
    """Init was started."""

    container_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class TaskExit:
    """A process is gone; ``id`` is the container's id for init, else the exec's."""

    container_id: str
    id: str
    pid: int
    exit_status: int
    exited_at_ns: int


@dataclass(frozen=True, slots=True)
class TaskDelete:
    """A process was removed; ``id`` is empty for init, else the exec's.

    ``exited_at_ns`` is None for a process that never lived.
    """

    container_id: str
    pid: int
    exit_status: int
    exited_at_ns: int | None
    id: str = ""


@dataclass(frozen=True, slots=True)
class TaskOOM:
    """The container's cgroup killed something for want of memory."""

    container_id: str


@dataclass(frozen=True, slots=True)
class TaskExecAdded:
    """An exec was added; it does not run yet."""

    container_id: str
    exec_id: str


@dataclass(frozen=True, slots=True)
class TaskExecStarted:
    """An exec was started."""

    container_id: str
    exec_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class TaskPaused:
    """The container was frozen."""

    container_id: str


@dataclass(frozen=True, slots=True)
class TaskResumed:
    """The container was thawed."""

    container_id: str


@dataclass(frozen=True, slots=True)
class TaskCheckpointed:
    """A checkpoint was written to ``checkpoint``."""

    container_id: str
    checkpoint: str


Event: TypeAlias = (
    TaskCreate
    | TaskStart
    | TaskExit
    | TaskDelete
    | TaskOOM
    | TaskExecAdded
    | TaskExecStarted
    | TaskPaused
    | TaskResumed
    | TaskCheckpointed
)
