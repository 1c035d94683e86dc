"""What daemon and shim say on stdin and stdout, as far as it is protobuf.

Owns: the dialects of `start`, both directions of each; the answers of `delete` and
``-info``.
Must not know: fds; where the answers come from.

The daemon never says which dialect it speaks: up to 2.2 an ``Any`` of options or
nothing goes in and a plain address comes out, from 2.3 on BootstrapParams go in and a
BootstrapResult comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from dunnage.api.bootstrap_pb2 import (
    LOG_LEVEL_DEBUG,
    LOG_LEVEL_INFO,
    BootstrapParams,
    BootstrapResult,
    Extension,
)
from dunnage.api.task_v2_pb2 import DeleteResponse
from dunnage.api.times import nanoseconds, timestamp
from dunnage.api.types_pb2 import RuntimeInfo, RuntimeVersion
from dunnage.descriptors import Any
from dunnage.errors import InvalidArgument

from . import endpoint
from .endpoint import Endpoint
from .flags import STDIN_LIMIT_BYTES

if TYPE_CHECKING:
    from .flags import Flags

# What a daemon passes as options; an extension of another type is something else.
OPTION_TYPES: Final = (
    "containerd.runc.v1.Options",
    "runtimeoptions.v1.Options",
    "containerd.linux.runc.CreateOptions",
)

FEATURES: Final = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

_UINT32: Final = 0xFFFFFFFF
_NONE: Final[Mapping[str, str]] = MappingProxyType({})

M = TypeVar("M", bound=Message)


class Dialect(Enum):
    """How the daemon talks to `start`, and wants to be answered."""

    LEGACY = "legacy"
    """Any or nothing in, plain address out: what every daemon understands."""

    PARAMS = "params"
    """BootstrapParams in, BootstrapResult out: containerd 2.3 and later."""


class Options(NamedTuple):
    """Options of the runtime, packed as they came."""

    type_url: str
    value: bytes


class Start(NamedTuple):
    """What `start` was told, wherever it was said: stdin, flags or environment."""

    dialect: Dialect = Dialect.LEGACY
    options: Options | None = None
    debug: bool = False
    ttrpc_address: str = ""
    grpc_address: str = ""
    containerd_binary: str = ""
    socket_dir: str = ""


class Deleted(NamedTuple):
    """The answer of `delete`; None is a time that nobody knows."""

    pid: int
    exit_status: int
    exited_at_ns: int | None


def parse_start(stdin: bytes, flags: Flags, environ: Mapping[str, str]) -> Start:
    """Read what `start` finds on stdin.

    An ``Any`` whose value is UTF-8 parses as BootstrapParams too, with the type's name
    for an id, and BootstrapParams parse as an ``Any``.
    So they count as BootstrapParams only if they name the task that the flags name;
    trusting them put all containers into one shim (containerd 2.3.0 to 2.3.4).

    Raises:
        InvalidArgument: stdin is longer than `STDIN_LIMIT_BYTES`.
    """
    if len(stdin) > STDIN_LIMIT_BYTES:
        raise InvalidArgument(f"stdin is longer than {STDIN_LIMIT_BYTES} bytes")
    told = Start(
        debug=flags.debug,
        ttrpc_address=environ.get("TTRPC_ADDRESS", ""),
        grpc_address=flags.address,
        containerd_binary=flags.publish_binary,
    )
    params = _maybe_parse(BootstrapParams, stdin)
    if params is None or (params.instance_id, params.namespace) != (
        flags.id,
        flags.namespace,
    ):
        packed = _maybe_parse(Any, stdin)
        return told._replace(options=_options(packed) if packed else None)
    return told._replace(
        dialect=Dialect.PARAMS,
        options=_options_among(params),
        debug=flags.debug or params.log_level <= LOG_LEVEL_DEBUG,
        ttrpc_address=params.containerd_ttrpc_address or told.ttrpc_address,
        grpc_address=params.containerd_grpc_address or told.grpc_address,
        containerd_binary=params.containerd_binary or told.containerd_binary,
        socket_dir=params.socket_dir,
    )


def render_start(told: Start, *, id: str, namespace: str) -> bytes:  # noqa: A002
    """Return the stdin of `start`; the other direction of `parse_start`.

    ``id`` is containerd's word for it.
    """
    packed = told.options and Any(
        type_url=told.options.type_url, value=told.options.value
    )
    if told.dialect is Dialect.LEGACY:
        return packed.SerializeToString() if packed else b""
    return BootstrapParams(
        instance_id=id,
        namespace=namespace,
        log_level=LOG_LEVEL_DEBUG if told.debug else LOG_LEVEL_INFO,
        containerd_ttrpc_address=told.ttrpc_address,
        containerd_grpc_address=told.grpc_address,
        containerd_binary=told.containerd_binary,
        extensions=[Extension(value=packed)] if packed else [],
        socket_dir=told.socket_dir or None,
    ).SerializeToString()


def render_answer(
    dialect: Dialect, address: str, version: int = endpoint.VERSIONS[0]
) -> bytes:
    """Return the stdout of `start`: where the shim accepts connections.

    Plain stands for version 2; newer daemons call version 3 and fall back, but never
    the other way: a shim with version 3 alone has to be told as such (containerd 2.0
    to 2.2 read JSON).
    """
    if dialect is Dialect.LEGACY:
        if version > endpoint.VERSIONS[0]:
            return Endpoint(address, version).to_json().encode()
        return address.encode()
    version = endpoint.VERSIONS[-1]
    return BootstrapResult(
        version=version, address=address, protocol=endpoint.TTRPC
    ).SerializeToString()


def parse_answer(stdout: bytes) -> Endpoint:
    """Read the answer to `start` in any of its three forms.

    Raises:
        Unimplemented: the version is newer than ours.
        InvalidArgument: the protocol is unknown (also: nothing was said at all), or
            there is no address.
    """
    result = _maybe_parse(BootstrapResult, stdout)
    if result is None:
        return endpoint.parse_text(stdout.decode("utf-8", "replace")).checked()
    return Endpoint(result.address, result.version, result.protocol).checked()


def render_deleted(deleted: Deleted) -> bytes:
    """Return the stdout of `delete`; a pid of -1 is the reference's "none"."""
    return DeleteResponse(
        pid=deleted.pid & _UINT32,
        exit_status=deleted.exit_status & _UINT32,
        exited_at=timestamp(deleted.exited_at_ns),
    ).SerializeToString()


def parse_deleted(stdout: bytes) -> Deleted:
    """Read the answer of `delete`.

    Raises:
        InvalidArgument: it is none; containerd then takes the status to be 255.
    """
    answer = _maybe_parse(DeleteResponse, stdout)
    if answer is None:
        raise InvalidArgument(f"delete answered {stdout[:80]!r}")
    known = answer.HasField("exited_at")
    exited_at_ns = nanoseconds(answer.exited_at) if known else None
    return Deleted(answer.pid, answer.exit_status, exited_at_ns)


def render_info(
    name: str,
    version: str,
    *,
    options: Options | None = None,
    features: bytes | None = None,
    annotations: Mapping[str, str] = _NONE,
) -> bytes:
    """Return the stdout of ``-info``.

    Args:
        name: the runtime's, as containerd knows it.
        version: ours.
        options: those that were given.
        features: what the runtime says that it can do, in JSON.
        annotations: of the runtime.
    """
    message = RuntimeInfo(
        name=name,
        version=RuntimeVersion(version=version),
        annotations=dict(annotations),
    )
    if options and options.type_url:
        given = Any(type_url=options.type_url, value=options.value)
        message.options.CopyFrom(given)
    if features is not None:
        message.features.CopyFrom(Any(type_url=FEATURES, value=features))
    return message.SerializeToString()


def _maybe_parse(kind: type[M], data: bytes) -> M | None:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def _options_among(params: BootstrapParams) -> Options | None:
    for extension in params.extensions:
        if extension.value.type_url.rpartition("/")[2] in OPTION_TYPES:
            return _options(extension.value)
    return None


def _options(packed: Any) -> Options | None:
    return Options(packed.type_url, packed.value) if packed.type_url else None
