"""Between the wire's messages and the values that tasks and drivers speak."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from dunnage.api import (
    legacy_options_pb2,
    metrics_v1_pb2,
    metrics_v2_pb2,
    process_pb2,
    runc_options_pb2,
    runtime_options_pb2,
    task_v2_pb2,
    typeurl,
)
from dunnage.descriptors import Any
from dunnage.drivers.contract import Checkpoint, Creation, Streams
from dunnage.drivers.runc import Options, configuration
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

A = TypeVar("A", bound=Message)
B = TypeVar("B", bound=Message)

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
        InvalidArgument: they cannot be decoded, or make no sense.
    """
    if typeurl.holds(packed, runtime_options_pb2.Options):
        kind = runtime_options_pb2.Options
        in_toml = _decoded(packed, (kind, kind))
        found = _from_toml(in_toml) if in_toml else Options()
    else:
        kinds = (runc_options_pb2.Options, legacy_options_pb2.CreateOptions)
        message = _decoded(packed, kinds)
        found = _named_alike(message) if message else Options()
    root, work = (
        os.path.join(bundle, path) if path else ""
        for path in (found.root, found.criu_work_path)
    )
    return dataclasses.replace(found, root=root, criu_work_path=work)


def _named_alike(message: Message) -> Options:
    """Return options from the fields of a message that have their names."""
    names = (field.name for field in dataclasses.fields(Options))
    known = message.DESCRIPTOR.fields_by_name
    return Options(**{name: getattr(message, name) for name in names if name in known})


def _from_toml(message: runtime_options_pb2.Options) -> Options:
    if message.config_body:
        return configuration.parse(message.config_body, "config_body")
    return configuration.read(message.config_path) if message.config_path else Options()


def checkpoint(request: task_v2_pb2.CheckpointTaskRequest) -> Checkpoint:
    """Return the checkpoint that is asked for; no options are defaults.

    Raises:
        NotFound: the options' type is not known here.
        InvalidArgument: they cannot be decoded, or a path is missing or makes no sense.
    """
    packed = request.options
    kinds = (runc_options_pb2.CheckpointOptions, legacy_options_pb2.CheckpointOptions)
    given = _decoded(packed, kinds) or runc_options_pb2.CheckpointOptions()
    path = request.path or given.image_path
    _expect_path("path of a checkpoint", path)
    if given.work_path:
        _expect_path("work path", given.work_path)
    return Checkpoint(
        path,
        exit=given.exit,
        open_tcp=given.open_tcp,
        external_unix_sockets=given.external_unix_sockets,
        terminal=given.terminal,
        file_locks=given.file_locks,
        empty_namespaces=tuple(given.empty_namespaces),
        cgroups_mode=given.cgroups_mode,
        work_path=given.work_path,
        parent_path=getattr(given, "parent_path", ""),
    )


def creation(request: task_v2_pb2.CreateTaskRequest) -> Creation:
    """Return all that a container is created from.

    Raises:
        InvalidArgument: a path makes no sense.
    """
    _expect_path("bundle", request.bundle)
    for path in filter(None, (request.checkpoint, request.parent_checkpoint)):
        _expect_path("checkpoint", path)
    return Creation(
        request.id,
        request.bundle,
        rootfs(request),
        streams(request),
        request.checkpoint,
        request.parent_checkpoint,
    )


def _expect_path(what: str, path: str) -> None:
    if not os.path.isabs(path):
        raise InvalidArgument(f"{what} {path!r} is not an absolute path")
    if "\0" in path:
        raise InvalidArgument(f"{what} {path!r} has a NUL in it")


def _decoded(packed: Any, kinds: tuple[type[A], type[B]]) -> A | B | None:
    """Return options, whichever dialect they are of; None if there are none."""
    if not packed.type_url or not packed.value:
        return None
    for kind in kinds:
        if typeurl.holds(packed, kind):
            try:
                return kind.FromString(packed.value)
            except DecodeError as error:
                text = f"options {packed.type_url}: {error}"
                raise InvalidArgument(text) from error
    raise NotFound(f"type with url {packed.type_url}")


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
