"""Twin of dunnage.task.record."""

from __future__ import annotations

from dunnage.task import record
from dunnage.task.events import Mount, TaskCreate, TaskIO
from dunnage.task.record import Process
from dunnage.task.states import Exit, Operation, State


def test_a_process_comes_back_from_its_fields() -> None:
    """Whatever is known of a process survives the way through JSON."""
    for process in (
        Process(),
        Process(State.CREATED, 7, Operation.CHECKPOINT, True, "/checkpoint"),
        Process(State.STOPPED, 7, death=Exit(137, 10)),
        Process(State.STOPPED, 7, death=Exit(0, 0)),
    ):
        assert process == Process.from_json(process.to_json())


def test_a_create_comes_back_without_its_pid() -> None:
    """The request survives; the pid is only known at the commit."""
    create = TaskCreate(
        "c",
        bundle="/b",
        rootfs=(Mount("bind", "/s", "t", ("ro",)), Mount()),
        io=TaskIO("/i", "/o", "/e", terminal=True),
        checkpoint="/checkpoint",
        pid=9,
    )
    fields = record.create_to_json(create)

    assert record.create_from_json(fields) == TaskCreate(
        "c", "/b", create.rootfs, create.io, "/checkpoint", 0
    )
