"""What a shim said, as values: one event, and what its calls have answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What an event tells; the value is the last part of its topic."""

    CREATE = "create"
    START = "start"
    EXIT = "exit"
    DELETE = "delete"
    OOM = "oom"
    EXEC_ADDED = "exec-added"
    EXEC_STARTED = "exec-started"
    PAUSED = "paused"
    RESUMED = "resumed"
    CHECKPOINTED = "checkpointed"


@dataclass(frozen=True, slots=True)
class Said:
    """One event as it came over the wire; what a kind does not have is empty."""

    kind: Kind
    container_id: str
    id: str = ""
    """The exec, as the wire names it: an exit names init by the container's id."""
    pid: int = 0
    exit_status: int = 0
    exited_at_ns: int | None = None
    topic: str = ""
    namespace: str = ""
    at_ns: int | None = None
    """The envelope's time."""

    @property
    def exec_id(self) -> str:
        """The exec that this is about; empty when it is about init or the task."""
        return "" if self.id == self.container_id else self.id

    def __str__(self) -> str:
        """Return it as a report names it."""
        return (
            f"{self.kind} of {self.container_id}{self.exec_id and '/' + self.exec_id}"
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """What the answers to a client's calls have told of one process.

    Whatever stands here the events must tell too; what is None was not asked.
    """

    container_id: str
    exec_id: str = ""
    was_started: bool | None = None
    pid: int | None = None
    exit_status: int | None = None
    exited_at_ns: int | None = None
    was_deleted: bool | None = None
