"""Messages turn into the very bytes that containerd writes, and back.

The bytes are spelt out here, not produced by the code under test; text in quotes
stands for its own bytes.
They are also the check of what the peers of tests/api/test_peers.py are too old for.
"""

from __future__ import annotations

import re

import pytest
from google.protobuf.message import Message

from dunnage.api import bootstrap_pb2, events_pb2, forward_pb2, runc_options_pb2
from dunnage.api import task_v2_pb2 as task
from dunnage.api.typeurl import pack
from dunnage.descriptors import Any, Timestamp
from dunnage.ttrpc import status_pb2, wire_pb2

ADDRESS = (
    "unix:///run/containerd/s/"
    "d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"
)
THEN = Timestamp(seconds=1_700_000_000, nanos=5)
YEAR_1 = -62_135_596_800


def bytes_of(notation: str) -> bytes:
    """Return the bytes that hex pairs and quoted texts stand for."""
    return b"".join(
        text.encode() if text else bytes.fromhex(pair)
        for text, pair in re.findall(r'"([^"]+)"|([0-9a-f]{2})', notation)
    )


VECTORS: dict[str, tuple[str, Message]] = {
    "Connect request": (
        (
            '0a 17 "containerd.task.v2.Task" 12 07 "Connect" 1a 04 0a 02 63 31'
            ' 20 80 e4 97 d0 12 2a 25 0a 1a "containerd-namespace-ttrpc"'
            ' 12 07 "default"'
        ),
        wire_pb2.Request(
            service="containerd.task.v2.Task",
            method="Connect",
            payload=task.ConnectRequest(id="c1").SerializeToString(),
            timeout_nano=5_000_000_000,
            metadata=[
                wire_pb2.KeyValue(key="containerd-namespace-ttrpc", value="default")
            ],
        ),
    ),
    "Connect reply": (
        "12 06 08 92 21 10 93 21",
        wire_pb2.Response(
            payload=task.ConnectResponse(
                shim_pid=4242, task_pid=4243
            ).SerializeToString()
        ),
    ),
    "Empty reply": ("", wire_pb2.Response()),
    "NotFound": (
        '0a 24 08 05 12 20 "container not created: not found"',
        wire_pb2.Response(
            status=status_pb2.Status(code=5, message="container not created: not found")
        ),
    ),
    "DeleteResponse": (
        "08 07 10 89 01 1a 08 08 80 e2 cf aa 06 10 05",
        task.DeleteResponse(pid=7, exit_status=137, exited_at=THEN),
    ),
    "zero time in field 3": (
        "1a 0b 08 80 92 b8 c3 98 fe ff ff ff 01",
        task.DeleteResponse(exited_at=Timestamp(seconds=YEAR_1)),
    ),
    "options": (
        '0a 1a "containerd.runc.v1.Options" 12 08 32 04 72 75 6e 63 48 01',
        pack(runc_options_pb2.Options(binary_name="runc", systemd_cgroup=True)),
    ),
    "BootstrapParams": (
        (
            '0a 02 63 31 12 07 "default" 18 fc ff ff ff ff ff ff ff ff 01'
            ' 22 05 "2.3.4" 2a 25 "/run/containerd/containerd.sock.ttrpc"'
            ' 32 1f "/run/containerd/containerd.sock" 3a 13 "/usr/bin/containerd"'
            ' 4a 11 "/run/containerd/s"'
        ),
        bootstrap_pb2.BootstrapParams(
            instance_id="c1",
            namespace="default",
            log_level=bootstrap_pb2.LOG_LEVEL_DEBUG,
            containerd_version="2.3.4",
            containerd_ttrpc_address="/run/containerd/containerd.sock.ttrpc",
            containerd_grpc_address="/run/containerd/containerd.sock",
            containerd_binary="/usr/bin/containerd",
            socket_dir="/run/containerd/s",
        ),
    ),
    "BootstrapResult": (
        f'08 03 12 59 "{ADDRESS}" 1a 05 "ttrpc"',
        bootstrap_pb2.BootstrapResult(version=3, address=ADDRESS, protocol="ttrpc"),
    ),
    "ForwardRequest": (
        (
            '0a 55 0a 08 08 80 e2 cf aa 06 10 05 12 07 "default" 1a 0b "/tasks/exit"'
            ' 22 33 0a 1a "containerd.events.TaskExit" 12 15 0a 02 63 31 12 02 63 31'
            " 18 93 21 2a 08 08 80 e2 cf aa 06 10 05"
        ),
        forward_pb2.ForwardRequest(
            envelope=forward_pb2.Envelope(
                timestamp=THEN,
                namespace="default",
                topic="/tasks/exit",
                event=pack(
                    events_pb2.TaskExit(
                        container_id="c1", id="c1", pid=4243, exited_at=THEN
                    )
                ),
            )
        ),
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str) -> None:
    """A message encodes to the recorded bytes, and these decode to the message."""
    notation, message = VECTORS[name]
    assert bytes_of(notation) == message.SerializeToString()
    assert message == type(message).FromString(bytes_of(notation))


def test_negative_numbers_take_ten_bytes() -> None:
    """Negative enums and int32 are sign-extended to 64 bits, as Go writes them."""
    params = bootstrap_pb2.BootstrapParams(log_level=bootstrap_pb2.LOG_LEVEL_TRACE)
    assert bytes_of("18 f8 ff ff ff ff ff ff ff ff 01") == params.SerializeToString()
    status = status_pb2.Status(code=-1)
    assert bytes_of("08 ff ff ff ff ff ff ff ff ff 01") == status.SerializeToString()
    assert status == status_pb2.Status.FromString(status.SerializeToString())


def test_defaults_are_omitted() -> None:
    """A default value takes no bytes, except in an optional field that is set."""
    assert task.KillRequest(id="", signal=0, all=False).SerializeToString() == b""
    assert bootstrap_pb2.BootstrapParams(socket_dir="").SerializeToString() == b"\x4a\0"
    assert not bootstrap_pb2.BootstrapParams().HasField("socket_dir")


def test_unknown_fields_are_skipped() -> None:
    """What a newer peer adds does not keep us from reading the rest."""
    newer = bytes_of('0a 02 63 31 f2 3f 03 "new" f8 3f 01 fd 3f 00 00 00 00 18 09')
    read = task.KillRequest.FromString(newer)
    assert (read.id, read.signal) == ("c1", 9)


def test_unknown_enum_value_is_kept() -> None:
    """A level that we have no name for is still a number."""
    read = bootstrap_pb2.BootstrapParams.FromString(b"\x18\x05")
    assert read.log_level == 5


def test_any_field_takes_the_private_class() -> None:
    """An Any of ours fits into a field of ours and comes out again."""
    options = runc_options_pb2.Options(binary_name="crun")
    request = task.CreateTaskRequest(id="c1", options=pack(options))
    assert isinstance(request.options, Any)
    assert request == task.CreateTaskRequest.FromString(request.SerializeToString())
