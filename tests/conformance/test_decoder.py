"""Twin of dunnage.conformance.decoder: against an encoder it shares nothing with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.api import forward_pb2
from dunnage.conformance.decoder import decode
from dunnage.conformance.oracle import judge
from dunnage.conformance.said import Kind, Said
from dunnage.descriptors import Any
from dunnage.errors import DataLoss
from dunnage.publish import envelope
from dunnage.publish.outbox import Outbox
from dunnage.task import events as e
from dunnage.task.machine import INIT, Task

AT_NS = 1_700_000_000_000_000_005

MESSAGES = [
    (e.TaskCreate("c", "/b", (e.Mount("bind"),), pid=9), Kind.CREATE, "", 9, 0, None),
    (e.TaskStart("c", 9), Kind.START, "", 9, 0, None),
    (e.TaskExit("c", "e", 9, 137, 7), Kind.EXIT, "e", 9, 137, 7),
    (e.TaskDelete("c", 9, 300, 8, "e"), Kind.DELETE, "e", 9, 300, 8),
    (e.TaskDelete("c", 0, 0, None), Kind.DELETE, "", 0, 0, None),
    (e.TaskOOM("c"), Kind.OOM, "", 0, 0, None),
    (e.TaskExecAdded("c", "e"), Kind.EXEC_ADDED, "e", 0, 0, None),
    (e.TaskExecStarted("c", "e", 9), Kind.EXEC_STARTED, "e", 9, 0, None),
    (e.TaskPaused("c"), Kind.PAUSED, "", 0, 0, None),
    (e.TaskResumed("c"), Kind.RESUMED, "", 0, 0, None),
    (e.TaskCheckpointed("c", "/p"), Kind.CHECKPOINTED, "", 0, 0, None),
]


@pytest.mark.parametrize(
    ("event", "kind", "id_", "pid", "status", "exited_at_ns"), MESSAGES
)
def test_what_is_encoded_is_read(
    event: e.Event,
    kind: Kind,
    id_: str,
    pid: int,
    status: int,
    exited_at_ns: int | None,
) -> None:
    """Every field of every kind of event arrives."""
    assert Said(
        kind, "c", id_, pid, status, exited_at_ns, f"/tasks/{kind}", "n", AT_NS
    ) == decode(envelope.encode(event, "n", AT_NS))


def test_a_machine_that_says_it_all_is_without_fault() -> None:
    """From the machine through the outbox to the judge: no fault."""
    outbox = Outbox("n")
    task = Task(e.TaskCreate("c"), outbox.put)
    with task.creating() as creating:
        creating.commit(100)
    with task.starting() as starting:
        starting.commit()
    with task.adding("e") as adding:
        adding.commit()
    with task.starting("e") as starting:
        task.died(INIT, 3, 5)
        task.died("e", 4, 6)
        starting.commit(101)
    with task.deleting() as deleting:
        deleting.commit()

    stream = [decode(data) for data in outbox]
    assert [] == judge(stream, is_whole=True)
    assert ["e", "c", "e", ""] == [said.id for said in stream[-4:]]


def test_a_host_before_the_name_is_overlooked() -> None:
    """As containerd resolves it, so it is read."""
    packed = Any(type_url="types.containerd.io/containerd.events.TaskOOM")
    data = forward_pb2.Envelope(event=packed).SerializeToString()

    assert (Kind.OOM, None, "") == (decode(data).kind, decode(data).at_ns, "")


@pytest.mark.parametrize(
    "type_url", ["", "containerd.events.TaskOther", "TaskOOM", "other.TaskOOM"]
)
def test_what_is_no_event_of_a_task(type_url: str) -> None:
    """Another message is not taken for one of a task's."""
    packed = Any(type_url=type_url)
    data = forward_pb2.Envelope(event=packed).SerializeToString()
    with pytest.raises(DataLoss, match="no event of a task"):
        decode(data)


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    """Bytes of any kind are an event or DataLoss, never another error."""
    try:
        decode(data)
    except DataLoss:
        return


@given(st.sampled_from(MESSAGES), st.data())
def test_damaged_bytes(message: tuple[e.Event, ...], data: st.DataObject) -> None:
    """A damaged envelope is an event or DataLoss, never another error."""
    good = bytearray(envelope.encode(message[0], "n", AT_NS))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(good[: data.draw(st.integers(0, len(good)))]))
    except DataLoss:
        return
