"""Names, numbers, types and labels are those of the real containerd and ttrpc."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from tests.api.protoc import compile_protos, flatten, peer, renamed, version_of

from dunnage.api import (
    bootstrap_pb2,
    events_pb2,
    forward_pb2,
    legacy_options_pb2,
    process_pb2,
    runc_options_pb2,
    runtime_options_pb2,
    task_v2_pb2,
    task_v3_pb2,
    types_pb2,
)
from dunnage.ttrpc import wire_pb2

OURS = (
    bootstrap_pb2,
    events_pb2,
    forward_pb2,
    legacy_options_pb2,
    process_pb2,
    runc_options_pb2,
    runtime_options_pb2,
    task_v2_pb2,
    task_v3_pb2,
    types_pb2,
)

Version = tuple[int, int]


class Life(NamedTuple):
    """In which versions of containerd something of ours exists."""

    since: Version = (0, 0)
    until: Version = (999, 0)


# Everything else must be in every version; a name stands for all that is in it.
# Where the newest peer is older than a `since`, tests/api/test_vectors.py is the check.
LIVES = {
    "containerd.task.v3": Life(since=(2, 0)),
    "containerd.runtime.bootstrap.v1": Life(since=(2, 3)),
    "containerd.types.RuntimeRequest": Life(since=(2, 0)),
    "containerd.types.RuntimeVersion": Life(since=(2, 0)),
    "containerd.types.RuntimeInfo": Life(since=(2, 0)),
    "containerd.linux.runc": Life(until=(2, 0)),
    "containerd.runc.v1.Options.criu_path": Life(until=(2, 0)),
    "containerd.runc.v1.Options.task_api_address": Life(since=(2, 0)),
    "containerd.runc.v1.Options.task_api_version": Life(since=(2, 0)),
    "containerd.runc.v1.CheckpointOptions.parent_path": Life(since=(2, 4)),
    "runtimeoptions.v1.Options.config_body": Life(since=(1, 7)),
}
# From 2.0 on this message is in another package; the bytes are the same.
ENVELOPE = "containerd.services.events.ttrpc.v1.Envelope"
ENVELOPE_2 = "containerd.types.Envelope"

PROTOS_16 = (
    "api/events/task.proto",
    "api/services/ttrpc/events/v1/events.proto",
    "runtime/linux/runctypes/runc.proto",
    "runtime/v2/runc/options/oci.proto",
    "runtime/v2/task/shim.proto",
)
PROTOS_2 = (
    "api/events/task.proto",
    "api/runtime/task/v2/shim.proto",
    "api/runtime/task/v3/shim.proto",
    "api/services/ttrpc/events/v1/events.proto",
    "api/types/introspection.proto",
    "api/types/runc/options/oci.proto",
    "api/types/runtimeoptions/v1/api.proto",
)
BOOTSTRAP = "api/runtime/bootstrap/v1/bootstrap.proto"


def ours(file: FileDescriptor) -> dict[str, object]:
    """Return what one of our modules really puts into the pool."""
    return flatten(FileDescriptorProto.FromString(file.serialized_pb))


def theirs(
    include: tuple[Path, ...], source: Path, files: tuple[str, ...]
) -> dict[str, object]:
    """Return everything that the peer's files declare."""
    root = include[0]
    names = [str((source / file).relative_to(root)) for file in files]
    facts: dict[str, object] = {}
    for file in compile_protos(include, names):
        facts |= flatten(file)
    return facts


def lives(name: str, version: Version) -> bool:
    """Tell whether that version of containerd has what is called so."""
    return all(
        life.since <= version < life.until
        for outer, life in LIVES.items()
        if name == outer or name.startswith(f"{outer}.")
    )


def expected_of(version: Version) -> dict[str, object]:
    """Return what of ours that version of containerd must have."""
    facts: dict[str, object] = {}
    for module in OURS:
        facts |= ours(module.DESCRIPTOR)
    facts = {name: fact for name, fact in facts.items() if lives(name, version)}
    if version >= (2, 0):
        facts = renamed(facts, ENVELOPE, ENVELOPE_2)
    return facts


def within(facts: dict[str, object], known: dict[str, object]) -> dict[str, object]:
    """Return those facts that are about the messages, enums and services known."""
    return {
        name: fact
        for name, fact in facts.items()
        if name in known or name.rpartition(".")[0] in known
    }


def test_containerd_16() -> None:
    """Of the messages we define, containerd 1.6 has the same fields, and no more."""
    root = peer("protos-1.6") / "usr/share/gocode/src"
    source = root / "github.com/containerd/containerd"
    gogo = root / "github.com/gogo/protobuf"
    # One file imports gogo.proto under another name, which cannot be in the same run.
    found = theirs((root, gogo), source, PROTOS_16) | theirs(
        (root,), source, ("pkg/runtimeoptions/v1/api.proto",)
    )
    expected = expected_of(
        version_of("protos-1.6", "golang-github-containerd-containerd-dev")
    )
    assert expected == within(found, expected)


def test_containerd_2() -> None:
    """Of the messages we define, containerd 2.x has the same fields, and no more."""
    root = peer("protos-2") / "usr/share/gocode/src"
    source = root / "github.com/containerd/containerd"
    version = version_of("protos-2", "golang-github-containerd-containerd-api-dev")
    files = PROTOS_2 if version < (2, 3) else (*PROTOS_2, BOOTSTRAP)
    found = theirs((root, source / "api"), source, files)
    expected = expected_of(version)
    assert expected == within(found, expected)


def test_ttrpc() -> None:
    """The envelopes of ttrpc have the fields that ttrpc's own have, and no more."""
    root = peer("protos-2") / "usr/share/gocode/src/github.com/containerd/ttrpc"
    found = theirs((root,), root, ("request.proto",))
    # Debian builds ttrpc against a stub of google.rpc.Status, outside of any package.
    expected = renamed(ours(wire_pb2.DESCRIPTOR), ".google.rpc.Status", ".Status")
    assert expected == within(found, expected)


def test_every_version_is_looked_at() -> None:
    """One peer is older than containerd 2.0 and one is not."""
    package = "golang-github-containerd-containerd"
    assert version_of("protos-1.6", f"{package}-dev") == (1, 6)
    assert version_of("protos-2", f"{package}-api-dev") >= (2, 0)
