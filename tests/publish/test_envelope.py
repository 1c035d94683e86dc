"""Twin of dunnage.publish.envelope."""

from __future__ import annotations

from typing import get_args

import pytest

from dunnage.api import events_pb2
from dunnage.api.forward_pb2 import ForwardRequest
from dunnage.publish import envelope
from dunnage.task.events import (
    Event,
    Mount,
    TaskCheckpointed,
    TaskCreate,
    TaskDelete,
    TaskExecAdded,
    TaskExecStarted,
    TaskExit,
    TaskIO,
    TaskOOM,
    TaskPaused,
    TaskResumed,
    TaskStart,
)

AT_NS = 1_700_000_000_000_000_005
TIME = b"\x08\x80\xe2\xcf\xaa\x06\x10\x05"

# Every event, its topic, and the bytes of its message.
TABLE: list[tuple[Event, str, bytes]] = [
    (
        TaskCreate(
            "c1",
            "/b",
            (Mount("overlay", "o", "", ("ro",)),),
            TaskIO("i", "o", "e", terminal=True),
            "/cp",
            7,
        ),
        "/tasks/create",
        (
            b"\x0a\x02c1\x12\x02/b\x1a\x10\x0a\x07overlay\x12\x01o\x22\x02ro"
            b"\x22\x0b\x0a\x01i\x12\x01o\x1a\x01e\x20\x01\x2a\x03/cp\x30\x07"
        ),
    ),
    (TaskCreate("c1"), "/tasks/create", b"\x0a\x02c1\x22\x00"),
    (TaskStart("c1", 7), "/tasks/start", b"\x0a\x02c1\x10\x07"),
    (
        TaskExit("c1", "e1", 7, 137, AT_NS),
        "/tasks/exit",
        b"\x0a\x02c1\x12\x02e1\x18\x07\x20\x89\x01\x2a\x08" + TIME,
    ),
    (
        TaskDelete("c1", 7, 137, AT_NS, "e1"),
        "/tasks/delete",
        b"\x0a\x02c1\x10\x07\x18\x89\x01\x22\x08" + TIME + b"\x2a\x02e1",
    ),
    (
        TaskDelete("c1", 0, 0, None),
        "/tasks/delete",
        b"\x0a\x02c1\x22\x0b" + bytes.fromhex("088092b8c398feffffff01"),
    ),
    (TaskOOM("c1"), "/tasks/oom", b"\x0a\x02c1"),
    (TaskExecAdded("c1", "e1"), "/tasks/exec-added", b"\x0a\x02c1\x12\x02e1"),
    (
        TaskExecStarted("c1", "e1", 7),
        "/tasks/exec-started",
        b"\x0a\x02c1\x12\x02e1\x18\x07",
    ),
    (TaskPaused("c1"), "/tasks/paused", b"\x0a\x02c1"),
    (TaskResumed("c1"), "/tasks/resumed", b"\x0a\x02c1"),
    (
        TaskCheckpointed("c1", "/cp"),
        "/tasks/checkpointed",
        b"\x0a\x02c1\x12\x03/cp",
    ),
]


def test_table_is_complete() -> None:
    """Every event that a task says is in the table of these tests."""
    assert {type(event) for event, _, _ in TABLE} == set(get_args(Event))


@pytest.mark.parametrize(("event", "topic", "value"), TABLE)
def test_every_event(event: Event, topic: str, value: bytes) -> None:
    """Each event has its topic, its bare type, and the bytes of its message."""
    message = envelope.decode(envelope.encode(event, "default", AT_NS))
    assert (message.topic, message.namespace) == (topic, "default")
    assert message.event.type_url == f"containerd.events.{type(event).__name__}"
    assert message.event.value == value


def test_vector() -> None:
    """The request for an exit event is that of the Go shim, byte by byte."""
    expected = (
        b"\x0a\x55\x0a\x08" + TIME + b"\x12\x07default\x1a\x0b/tasks/exit\x22\x33"
        b"\x0a\x1acontainerd.events.TaskExit\x12\x15"
        b"\x0a\x02c1\x12\x02c1\x18\x93\x21\x2a\x08" + TIME
    )
    data = envelope.encode(TaskExit("c1", "c1", 4243, 0, AT_NS), "default", AT_NS)
    request = ForwardRequest(envelope=envelope.decode(data))
    assert request.SerializeToString() == expected


def test_never_fails() -> None:
    """What protobuf would refuse is said as well as it can be."""
    data = envelope.encode(TaskCreate("c1", "/b\udcff", pid=-1), "default", AT_NS)
    message = events_pb2.TaskCreate.FromString(envelope.decode(data).event.value)
    assert (message.bundle, message.pid) == ("/b?", 0xFFFFFFFF)


def test_one_line_for_the_log() -> None:
    """An event in the log is one line with its topic and its fields."""
    text = envelope.describe(envelope.encode(TaskStart("c1", 7), "default", AT_NS))
    assert text == '/tasks/start container_id: "c1" pid: 7'
