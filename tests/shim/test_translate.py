"""Between the wire and the values that tasks and drivers speak."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dunnage.api import (
    legacy_options_pb2,
    process_pb2,
    runc_options_pb2,
    runtime_options_pb2,
    types_pb2,
    typeurl,
)
from dunnage.api import task_v2_pb2 as pb
from dunnage.descriptors import Any as PackedAny
from dunnage.drivers.contract import Checkpoint, Creation, Streams
from dunnage.drivers.runc import Options
from dunnage.errors import (
    DunnageError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unknown,
)
from dunnage.host.mounts import Mount
from dunnage.shim import translate
from dunnage.task import events
from dunnage.task.states import Status


@pytest.mark.parametrize(
    "packed",
    [
        PackedAny(),
        PackedAny(type_url="containerd.runc.v1.Options"),
        PackedAny(type_url="some.Options"),
        PackedAny(value=b"x"),
    ],
)
def test_no_options_are_defaults(packed: PackedAny) -> None:
    """Without a type or a value there is nothing to decode."""
    assert Options() == translate.options(packed, "/b")


def test_a_relative_root_is_in_the_bundle() -> None:
    """So is that of `delete`, which runs there; an absolute one stays."""
    for root, expected in {"r": "/b/r", "/r": "/r", "": ""}.items():
        packed = typeurl.pack(runc_options_pb2.Options(root=root, io_uid=1))
        assert expected == translate.options(packed, "/b").root


def test_options_of_runc() -> None:
    """Every field of the message."""
    message = runc_options_pb2.Options(
        no_pivot_root=True,
        no_new_keyring=True,
        shim_cgroup="/x",
        io_uid=1,
        io_gid=2,
        binary_name="crun",
        root="/root",
        systemd_cgroup=True,
        criu_path="/criu",
        criu_image_path="/image",
        criu_work_path="/work",
        task_api_address="/address",
        task_api_version=3,
    )
    assert len(message.ListFields()) == len(message.DESCRIPTOR.fields)
    expected = Options(
        no_pivot_root=True,
        no_new_keyring=True,
        shim_cgroup="/x",
        io_uid=1,
        io_gid=2,
        binary_name="crun",
        root="/root",
        criu_path="/criu",
        systemd_cgroup=True,
        criu_image_path="/image",
        criu_work_path="/work",
        task_api_address="/address",
        task_api_version=3,
    )
    assert expected == translate.options(typeurl.pack(message), "/b")


def test_options_of_old_clients() -> None:
    """The dialect of the 1.6 era names neither a program nor its root."""
    fields: dict[str, Any] = {
        "no_pivot_root": True,
        "no_new_keyring": True,
        "shim_cgroup": "/x",
        "io_uid": 1,
        "io_gid": 2,
        "criu_work_path": "/work",
        "criu_image_path": "/image",
    }
    message = legacy_options_pb2.CreateOptions(**fields, terminal=True)
    expected = Options(**fields)
    assert expected == translate.options(typeurl.pack(message), "/b")


@pytest.mark.parametrize(
    ("packed", "kind"),
    [
        (PackedAny(type_url="some.Options", value=b"x"), NotFound),
        (
            PackedAny(type_url="containerd.runc.v1.Options", value=b"\xff"),
            InvalidArgument,
        ),
        (
            PackedAny(type_url="containerd.linux.runc.CreateOptions", value=b"a"),
            DunnageError,
        ),
    ],
)
def test_options_of_something_else(packed: PackedAny, kind: type[DunnageError]) -> None:
    """An unknown type, or a value that cannot be read, is never taken for none."""
    with pytest.raises(kind, match=packed.type_url):
        translate.options(packed, "/b")


_ALLOWED: dict[str, Any] = {
    "exit": True,
    "open_tcp": True,
    "external_unix_sockets": True,
    "terminal": True,
    "file_locks": True,
    "empty_namespaces": ["network"],
    "cgroups_mode": "full",
    "work_path": "/work",
}


@pytest.mark.parametrize(
    ("message", "parent"),
    [
        (
            runc_options_pb2.CheckpointOptions(
                **_ALLOWED, image_path="/other", parent_path="../parent"
            ),
            "../parent",
        ),
        (legacy_options_pb2.CheckpointOptions(**_ALLOWED, image_path="/other"), ""),
    ],
)
def test_a_checkpoint(message: Any, parent: str) -> None:
    """Every option of both dialects; the request's path goes before theirs."""
    options = typeurl.pack(message)
    request = pb.CheckpointTaskRequest(id="c", path="/path", options=options)
    fields = _ALLOWED | {"empty_namespaces": ("network",), "parent_path": parent}
    assert Checkpoint("/path", **fields) == translate.checkpoint(request)
    request.path = ""
    assert Checkpoint("/other", **fields) == translate.checkpoint(request)
    plain = pb.CheckpointTaskRequest(id="c", path="/path")
    assert Checkpoint("/path") == translate.checkpoint(plain)


def test_a_creation() -> None:
    """All that a container is created from, and restored from."""
    request = pb.CreateTaskRequest(
        id="c", bundle="/b", stdout="o", checkpoint="/x", parent_checkpoint="/p"
    )
    expected = Creation("c", "/b", (), Streams(stdout="o"), "/x", "/p")
    assert expected == translate.creation(request)
    for field in ("bundle", "checkpoint", "parent_checkpoint"):
        request = pb.CreateTaskRequest(id="c", bundle="/b")
        setattr(request, field, "relative")
        with pytest.raises(InvalidArgument, match="'relative' is not an absolute"):
            translate.creation(request)


def test_streams_and_mounts_and_the_event() -> None:
    """Each value has every field of the request; the pid of the event comes later."""
    request = pb.CreateTaskRequest(
        id="c",
        bundle="/b",
        rootfs=[types_pb2.Mount(type="t", source="s", target="x", options=["a", "b"])],
        stdin="i",
        stdout="o",
        stderr="e",
        terminal=True,
        checkpoint="/x",
    )
    assert Streams("i", "o", "e", terminal=True) == translate.streams(request)
    assert (Mount("t", "s", "x", ("a", "b")),) == translate.rootfs(request)
    assert translate.task_create(request) == events.TaskCreate(
        container_id="c",
        bundle="/b",
        rootfs=(events.Mount("t", "s", "x", ("a", "b")),),
        io=events.TaskIO("i", "o", "e", terminal=True),
        checkpoint="/x",
        pid=0,
    )


def test_every_status_has_its_value() -> None:
    """By name, as the wire has it."""
    for status in Status:
        assert status.name == process_pb2.Status.Name(translate.status(status))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, ResourceExhausted),
        (errno.EDQUOT, ResourceExhausted),
        (errno.EMFILE, ResourceExhausted),
        (errno.EACCES, PermissionDenied),
        (errno.ENOENT, NotFound),
        (errno.EIO, Unknown),
    ],
)
def test_a_refusal_of_the_kernel(code: int, kind: type[DunnageError]) -> None:
    """Its code says what to do about it, its text what it was about."""
    reason = os.strerror(code).lower()
    named = translate.os_error(OSError(code, os.strerror(code), "/x"))
    assert (kind, f"/x: {reason}") == (type(named), str(named))
    nameless = translate.os_error(OSError(code, os.strerror(code)))
    assert (kind, reason) == (type(nameless), str(nameless))
    assert "just words" == str(translate.os_error(OSError("just words")))


def test_options_in_toml(tmp_path: Path) -> None:
    """What Docker and Kubernetes give to a runtime of another name: a text, or a file.

    The text counts where there are both.
    """
    path = tmp_path / "x.toml"
    path.write_text('BinaryName = "crun"')
    pack, kind = typeurl.pack, runtime_options_pb2.Options
    file = pack(kind(type_url="x", config_path=str(path)))
    assert Options(binary_name="crun") == translate.options(file, "/b")
    body = pack(kind(config_path=str(path), config_body=b'Root = "r"'))
    assert Options(root="/b/r") == translate.options(body, "/b")
    assert Options() == translate.options(pack(kind(type_url="x")), "/b")
    with pytest.raises(InvalidArgument, match=r"^config_body: unknown option Bad "):
        translate.options(pack(kind(config_body=b"Bad = 1")), "/b")
