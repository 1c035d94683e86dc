"""What the machine remembers of each process, and its form in bytes.

Owns: the fields, and what follows from them alone.
Must not know: which change may follow which.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Self

from .events import Mount, TaskCreate, TaskIO
from .states import Exit, State
from .states import Operation as Op


@dataclass(slots=True)
class Process:
    """What the machine remembers of init or an exec."""

    state: State = State.COMING
    pid: int = 0
    op: Op | None = None
    committed: bool = False
    argument: str = ""
    """What the operation in flight is about: the path of a checkpoint."""
    death: Exit | None = None
    """Known, perhaps not yet said; said when the state is ``stopped``."""

    def to_json(self) -> list[Any]:
        """Return the fields as JSON has them."""
        return list(astuple(self))

    @classmethod
    def from_json(cls, fields: list[Any]) -> Self:
        """Return the process whose `to_json` gave ``fields``."""
        name, pid, op, committed, argument, death = fields
        known = Exit(*death) if death else None
        return cls(State(name), pid, op and Op(op), committed, argument, known)

    @property
    def is_public(self) -> bool:
        """Its create or add was said, and its delete was not."""
        return self.state not in {State.COMING, State.DELETED}

    @property
    def is_withheld(self) -> bool:
        """Dead, and the operation in flight keeps it from being said."""
        return self.op not in {None, Op.DELETE}

    @property
    def is_unfinished(self) -> bool:
        """Has more to say than its delete: it lives, is starting or being added."""
        return self.state is State.RUNNING or self.op in {Op.START, Op.ADD}


def create_to_json(create: TaskCreate) -> list[Any]:
    """Return the create event, but for its pid, as JSON has it."""
    io = create.io
    return [
        create.container_id,
        create.bundle,
        [[m.type, m.source, m.target, list(m.options)] for m in create.rootfs],
        [io.stdin, io.stdout, io.stderr, io.terminal],
        create.checkpoint,
    ]


def create_from_json(fields: list[Any]) -> TaskCreate:
    """Return the event whose `create_to_json` gave ``fields``."""
    container_id, bundle, rootfs, io, checkpoint = fields
    mounts = tuple(Mount(t, s, d, tuple(options)) for t, s, d, options in rootfs)
    return TaskCreate(container_id, bundle, mounts, TaskIO(*io), checkpoint)
