"""Twin of dunnage.bootstrap.wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.api.bootstrap_pb2 import BootstrapParams, BootstrapResult, Extension
from dunnage.api.types_pb2 import RuntimeInfo
from dunnage.bootstrap import wire
from dunnage.bootstrap.endpoint import Endpoint
from dunnage.bootstrap.flags import STDIN_LIMIT_BYTES, Flags
from dunnage.bootstrap.wire import Deleted, Dialect, Options, Start
from dunnage.descriptors import Any
from dunnage.errors import InvalidArgument, Unimplemented

GRPC = "/run/containerd/containerd.sock"
FLAGS = Flags(
    namespace="default",
    address=GRPC,
    publish_binary="/usr/bin/containerd",
    id="c1",
    action="start",
)
ENVIRON = {"TTRPC_ADDRESS": f"{GRPC}.ttrpc"}
ADDRESS = (
    "unix:///run/containerd/s/"
    "d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"
)

# The vectors of the protocol notes, appendix D.
RUNC_OPTIONS = "containerd.runc.v1.Options"
OPTIONS_VALUE = bytes.fromhex("32 04 72 75 6e 63 48 01")
ANY_VECTOR = b"\x0a\x1a" + RUNC_OPTIONS.encode() + b"\x12\x08" + OPTIONS_VALUE
PARAMS_VECTOR = (
    b"\x0a\x02c1\x12\x07default\x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    b'"\x052.3.4*\x25/run/containerd/containerd.sock.ttrpc'
    b"2\x1f/run/containerd/containerd.sock:\x13/usr/bin/containerd"
    b"J\x11/run/containerd/s"
)
LEGACY_START = Start(
    ttrpc_address=f"{GRPC}.ttrpc",
    grpc_address=GRPC,
    containerd_binary="/usr/bin/containerd",
)


def test_nothing_on_stdin() -> None:
    """Empty stdin is the old dialect without options; flags and environment tell."""
    assert wire.parse_start(b"", FLAGS, ENVIRON) == LEGACY_START


def test_any_vector() -> None:
    """An Any is the old dialect with options."""
    expected = LEGACY_START._replace(options=Options(RUNC_OPTIONS, OPTIONS_VALUE))
    assert wire.parse_start(ANY_VECTOR, FLAGS, ENVIRON) == expected


def test_params_vector() -> None:
    """BootstrapParams are the new dialect, and what they say comes first."""
    expected = LEGACY_START._replace(
        dialect=Dialect.PARAMS, debug=True, socket_dir="/run/containerd/s"
    )
    flags = Flags(namespace="default", id="c1", address="/other")
    assert wire.parse_start(PARAMS_VECTOR, flags, {}) == expected


def test_params_that_say_little() -> None:
    """What BootstrapParams leave out is taken from the flags and the environment."""
    stdin = BootstrapParams(instance_id="c1", namespace="default").SerializeToString()
    expected = LEGACY_START._replace(dialect=Dialect.PARAMS)
    assert wire.parse_start(stdin, FLAGS, ENVIRON) == expected


def test_debug_flag() -> None:
    """The flag asks for debug logs in either dialect."""
    flags = Flags(namespace="default", id="c1", debug=True)
    stdin = BootstrapParams(instance_id="c1", namespace="default").SerializeToString()
    assert wire.parse_start(stdin, flags, {}).debug
    assert wire.parse_start(b"", flags, {}).debug


def test_parsing_trap() -> None:
    """An Any that parses as BootstrapParams as well is taken for the Any it is."""
    value = b"2\x04runc"
    stdin = Any(type_url=RUNC_OPTIONS, value=value).SerializeToString()
    assert BootstrapParams.FromString(stdin).instance_id == RUNC_OPTIONS
    expected = LEGACY_START._replace(options=Options(RUNC_OPTIONS, value))
    assert wire.parse_start(stdin, FLAGS, ENVIRON) == expected


def test_bytes_that_are_nothing() -> None:
    """Bytes of neither dialect are no options."""
    assert wire.parse_start(b"\xff\xff\xff", FLAGS, ENVIRON) == LEGACY_START


@pytest.mark.parametrize("prefix", ["", "types.containerd.io/"])
@pytest.mark.parametrize("name", wire.OPTION_TYPES)
def test_options_among_extensions(prefix: str, name: str) -> None:
    """The options, of any known type, are found among other extensions."""
    stdin = BootstrapParams(
        instance_id="c1",
        namespace="default",
        extensions=[
            Extension(value=Any(type_url="example.Other", value=b"x")),
            Extension(value=Any(type_url=prefix + name, value=b"y")),
        ],
    ).SerializeToString()
    found = wire.parse_start(stdin, FLAGS, ENVIRON)
    assert found.options == Options(prefix + name, b"y")


def test_no_options_among_extensions() -> None:
    """Extensions of other types only are no options."""
    stdin = BootstrapParams(
        instance_id="c1",
        namespace="default",
        extensions=[Extension(value=Any(type_url="example.Other", value=b"x"))],
    ).SerializeToString()
    assert wire.parse_start(stdin, FLAGS, ENVIRON).options is None


def test_stdin_too_long() -> None:
    """More than 10 MiB of stdin are refused; 10 MiB are not."""
    wire.parse_start(bytes(STDIN_LIMIT_BYTES), FLAGS, ENVIRON)
    with pytest.raises(InvalidArgument, match="longer than 10485760"):
        wire.parse_start(bytes(STDIN_LIMIT_BYTES + 1), FLAGS, ENVIRON)


TEXT = st.text(min_size=1, max_size=8)
IDS = st.text("abc0", min_size=1, max_size=8)
OPTIONS = st.none() | st.builds(
    Options, type_url=st.sampled_from(wire.OPTION_TYPES), value=st.binary(max_size=20)
)
PARAMS_START = st.builds(
    Start,
    dialect=st.just(Dialect.PARAMS),
    options=OPTIONS,
    debug=st.booleans(),
    ttrpc_address=TEXT,
    grpc_address=TEXT,
    containerd_binary=TEXT,
    socket_dir=TEXT,
)


@given(PARAMS_START, IDS, IDS)
def test_round_trip_of_params(told: Start, own_id: str, namespace: str) -> None:
    """What the manager writes as BootstrapParams, the shim reads."""
    stdin = wire.render_start(told, id=own_id, namespace=namespace)
    flags = Flags(id=own_id, namespace=namespace)
    assert wire.parse_start(stdin, flags, {}) == told


@given(OPTIONS)
def test_round_trip_of_any(options: Options | None) -> None:
    """What the manager writes as an Any, the shim reads, UTF-8 or not."""
    told = LEGACY_START._replace(options=options)
    stdin = wire.render_start(told, id="c1", namespace="default")
    assert wire.parse_start(stdin, FLAGS, ENVIRON) == told


@given(st.binary(max_size=60))
def test_any_stdin(stdin: bytes) -> None:
    """Any bytes are understood as something."""
    wire.parse_start(stdin, FLAGS, ENVIRON)


def test_plain_answer() -> None:
    """The old dialect is answered with the address and nothing else."""
    assert wire.render_answer(Dialect.LEGACY, ADDRESS) == ADDRESS.encode()


def test_a_plain_answer_cannot_say_version_3() -> None:
    """So it is JSON, which daemons that know version 3 read."""
    said = wire.render_answer(Dialect.LEGACY, ADDRESS, 3)
    assert Endpoint(ADDRESS, 3) == wire.parse_answer(said)
    assert b"{" == said[:1]


def test_answer_vector() -> None:
    """The new dialect is answered with a BootstrapResult of version 3."""
    expected = b"\x08\x03\x12\x59" + ADDRESS.encode() + b"\x1a\x05ttrpc"
    assert wire.render_answer(Dialect.PARAMS, ADDRESS) == expected


@pytest.mark.parametrize(
    ("stdout", "version"),
    [
        (ADDRESS.encode(), 2),
        (f"{ADDRESS}\n".encode(), 2),
        (f'{{"version":2,"address":"{ADDRESS}","protocol":"ttrpc"}}'.encode(), 2),
        (f'{{"version":3,"address":"{ADDRESS}","protocol":"ttrpc"}}\n'.encode(), 3),
        (wire.render_answer(Dialect.PARAMS, ADDRESS), 3),
    ],
)
def test_every_answer(stdout: bytes, version: int) -> None:
    """The manager understands what any shim since 1.6 answers."""
    assert wire.parse_answer(stdout) == Endpoint(ADDRESS, version)


def test_binary_answer_is_not_trimmed() -> None:
    """A binary answer that ends with white space keeps it."""
    result = BootstrapResult(version=3, address="unix:///x", protocol="ttrpc")
    result.metadata["a"] = "\n"
    assert wire.parse_answer(result.SerializeToString()) == Endpoint("unix:///x", 3)


@pytest.mark.parametrize(
    ("stdout", "kind", "text"),
    [
        (b"", InvalidArgument, 'unexpected protocol: ""'),
        (
            BootstrapResult(version=4, address="a", protocol="x").SerializeToString(),
            Unimplemented,
            "unsupported shim version (4)",
        ),
        (
            BootstrapResult(version=3, protocol="ttrpc").SerializeToString(),
            InvalidArgument,
            "the shim said no address",
        ),
        (b"  \n ", InvalidArgument, "the shim said no address"),
    ],
)
def test_bad_answers(stdout: bytes, kind: type[Exception], text: str) -> None:
    """What no manager can use is refused."""
    with pytest.raises(kind) as caught:
        wire.parse_answer(stdout)
    assert str(caught.value) == text


@given(st.binary(max_size=60))
def test_any_answer(stdout: bytes) -> None:
    """Any bytes are an endpoint or a refusal."""
    try:
        assert wire.parse_answer(stdout).address
    except (InvalidArgument, Unimplemented):
        return


def test_deleted_vector() -> None:
    """The answer of delete is containerd's own."""
    deleted = Deleted(7, 137, 1_700_000_000_000_000_005)
    expected = bytes.fromhex("0807 108901 1a08 0880e2cfaa06 1005")
    assert wire.render_deleted(deleted) == expected
    assert wire.parse_deleted(expected) == deleted


def test_no_pid() -> None:
    """A pid that nobody knows is all ones, as in Go."""
    answer = wire.parse_deleted(wire.render_deleted(Deleted(-1, 137, 1)))
    assert answer == Deleted(0xFFFFFFFF, 137, 1)


@pytest.mark.parametrize("stdout", [b"", bytes.fromhex("1a0b 088092b8c398feffffff01")])
def test_no_time(stdout: bytes) -> None:
    """Neither a missing time nor year 1 is a time."""
    assert wire.parse_deleted(stdout) == Deleted(0, 0, None)


@given(
    st.builds(
        Deleted,
        pid=st.integers(0, 2**32 - 1),
        exit_status=st.integers(0, 255),
        exited_at_ns=st.none() | st.integers(0, 2**62),
    )
)
def test_round_trip_of_deleted(deleted: Deleted) -> None:
    """What delete writes, the manager reads."""
    assert wire.parse_deleted(wire.render_deleted(deleted)) == deleted


def test_polluted_delete() -> None:
    """A log line on stdout is no answer."""
    with pytest.raises(InvalidArgument, match="delete answered b'time="):
        wire.parse_deleted(b'time="2024-05-01" level=warning')


def test_info() -> None:
    """-info says name and version."""
    info = RuntimeInfo.FromString(wire.render_info("io.containerd.dunnage.v2", "0.1.0"))
    assert (info.name, info.version.version) == ("io.containerd.dunnage.v2", "0.1.0")
    assert not info.HasField("options")
    assert not info.HasField("features")
    given = wire.Options("x", b"y")
    more = {"options": given, "features": b"{}", "annotations": {"a": "b"}}
    info = RuntimeInfo.FromString(wire.render_info("n", "v", **more))  # type: ignore[arg-type]
    assert ("x", b"y") == (info.options.type_url, info.options.value)
    assert (wire.FEATURES, b"{}") == (info.features.type_url, info.features.value)
    assert {"a": "b"} == dict(info.annotations)
