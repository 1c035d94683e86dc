"""Between the wire's messages and the values that tasks and drivers speak."""

from __future__ import annotations

import errno
import os
from typing import Final

from google.protobuf.message import DecodeError

from dunnage.api import (
    legacy_options_pb2,
    metrics_v1_pb2,
    metrics_v2_pb2,
    process_pb2,
    runc_options_pb2,
    task_v2_pb2,
    typeurl,
)
from dunnage.descriptors import Any
from dunnage.drivers.contract import Streams
from dunnage.drivers.runc import Options
from dunnage.errors import (
    DunnageError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unknown,
    kind_of,
)
from dunnage.host.cgroups import Stats
from dunnage.host.mounts import Mount
from dunnage.task import events
from dunnage.task.states import Status

_STATUS: Final = {
    Status.UNKNOWN: process_pb2.UNKNOWN,
    Status.CREATED: process_pb2.CREATED,
    Status.RUNNING: process_pb2.RUNNING,
    Status.STOPPED: process_pb2.STOPPED,
    Status.PAUSED: process_pb2.PAUSED,
    Status.PAUSING: process_pb2.PAUSING,
}

_BY_ERRNO: Final[dict[int, type[DunnageError]]] = {
    errno.ENOENT: NotFound,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
}


def options(packed: Any, bundle: str) -> Options:
    """Return the runtime options of a Create; none, or an empty value, are defaults.

    A relative root is one in the ``bundle``: where the daemon runs `delete`, too.

    Raises:
        NotFound: their type is not known here (the Go shim's code and text).
        InvalidArgument: they cannot be decoded.
    """
    if not packed.type_url or not packed.value:
        return Options()
    kind: type[runc_options_pb2.Options | legacy_options_pb2.CreateOptions]
    if typeurl.holds(packed, runc_options_pb2.Options):
        kind = runc_options_pb2.Options
    elif typeurl.holds(packed, legacy_options_pb2.CreateOptions):
        kind = legacy_options_pb2.CreateOptions
    else:
        raise NotFound(f"type with url {packed.type_url}")
    try:
        message = kind.FromString(packed.value)
    except DecodeError as error:
        raise InvalidArgument(f"options {packed.type_url}: {error}") from error
    root = getattr(message, "root", "")
    return Options(
        no_pivot_root=getattr(message, "no_pivot_root", False),
        no_new_keyring=message.no_new_keyring,
        shim_cgroup=message.shim_cgroup,
        io_uid=message.io_uid,
        io_gid=message.io_gid,
        binary_name=getattr(message, "binary_name", ""),
        root=os.path.join(bundle, root) if root else "",
        systemd_cgroup=getattr(message, "systemd_cgroup", False),
    )


def streams(
    request: task_v2_pb2.CreateTaskRequest | task_v2_pb2.ExecProcessRequest,
) -> Streams:
    """Return where the streams of a process go."""
    return Streams(request.stdin, request.stdout, request.stderr, request.terminal)


def rootfs(request: task_v2_pb2.CreateTaskRequest) -> tuple[Mount, ...]:
    """Return the components of the root filesystem."""
    return tuple(
        Mount(m.type, m.source, m.target, tuple(m.options)) for m in request.rootfs
    )


def task_create(request: task_v2_pb2.CreateTaskRequest) -> events.TaskCreate:
    """Return the create event that the request leads to; its pid comes later."""
    return events.TaskCreate(
        container_id=request.id,
        bundle=request.bundle,
        rootfs=tuple(
            events.Mount(m.type, m.source, m.target, m.options) for m in rootfs(request)
        ),
        io=events.TaskIO(
            request.stdin, request.stdout, request.stderr, request.terminal
        ),
        checkpoint=request.checkpoint,
    )


def status(value: Status) -> process_pb2.Status.ValueType:
    """Return the enum value of a status."""
    return _STATUS[value]


def metrics(stats: Stats) -> Any:
    """Return what a container uses, packed, in the message of the cgroups' version."""
    if stats.version == 1:
        return typeurl.pack(metrics_v1_pb2.Metrics(**stats.values))
    return typeurl.pack(metrics_v2_pb2.Metrics(**stats.values))


def os_error(error: OSError) -> DunnageError:
    """Return a kernel's refusal as an error with a code, and what it was about."""
    kind = kind_of(error, _BY_ERRNO.get(error.errno or 0, Unknown))
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return kind(f"{error.filename}: {reason}" if error.filename else reason)
