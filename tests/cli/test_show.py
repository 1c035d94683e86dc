"""Events as people and programs read them."""

from __future__ import annotations

import json

from dunnage.api.events_pb2 import TaskCreate, TaskExit, TaskIO
from dunnage.api.types_pb2 import Mount
from dunnage.cli import show
from dunnage.descriptors import Timestamp
from dunnage.manager.eventlog import Record

AT_NS = 1_700_000_000_123_456_789


def record(message: TaskExit | TaskCreate, topic: str = "/tasks/exit") -> Record:
    """Return an event as the log has it."""
    name = message.DESCRIPTOR.full_name
    return Record(AT_NS, "ns", topic, name, message.SerializeToString())


def test_text() -> None:
    """A line has time, topic and fields; a status of zero is said."""
    exited_at = Timestamp(seconds=1_700_000_000)
    event = TaskExit(container_id="c", id="c", pid=7, exited_at=exited_at)
    assert show.as_text(record(event)) == (
        "2023-11-14T22:13:20.123456Z /tasks/exit         container_id=c id=c pid=7 "
        "exit_status=0 exited_at=2023-11-14T22:13:20.000000Z"
    )


def test_zero_time() -> None:
    """A time that there is not is left out."""
    event = TaskExit(container_id="c", exited_at=Timestamp(seconds=-62135596800))
    assert "exited_at" not in show.fields(record(event))


def test_nested() -> None:
    """Messages in messages, and lists of them, keep their names."""
    event = TaskCreate(
        container_id="c",
        rootfs=[Mount(type="bind", source="/r", options=["ro"])],
        io=TaskIO(stdout="/o", terminal=True),
        pid=7,
    )
    assert show.fields(record(event)) == {
        "container_id": "c",
        "rootfs": [{"type": "bind", "source": "/r", "options": ["ro"]}],
        "io": {"stdout": "/o", "terminal": True},
        "pid": 7,
    }


def test_unknown_and_broken() -> None:
    """An event that we do not know, or cannot read, still has its time and topic."""
    for kind, value in (("x.Y", b""), ("containerd.events.TaskExit", b"\xff")):
        event = Record(AT_NS, "ns", "/x/y", kind, value)
        assert show.fields(event) == {}
        assert show.as_text(event) == "2023-11-14T22:13:20.123456Z /x/y"
        assert json.loads(show.as_json(event))["type"] == kind


def test_timeline() -> None:
    """A timeline counts from its first event and leaves out the long fields."""
    first = record(TaskCreate(container_id="c", bundle="/long", pid=7), "/tasks/create")
    second = Record(AT_NS + 1_500_000_000, "ns", "/tasks/exit", "", b"")
    assert show.timeline([]) == []
    assert show.timeline([first, second]) == [
        "2023-11-14T22:13:20.123456Z   0.000000 s  /tasks/create       pid=7",
        "2023-11-14T22:13:21.623456Z   1.500000 s  /tasks/exit",
    ]
