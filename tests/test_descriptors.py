"""The private pool: beside others that define the same names, and apart from them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tests.api.protoc import compile_protos, peer

from dunnage.descriptors import Any, Empty, Timestamp

USE_OURS = """
from dunnage.api import events_pb2 as ours, forward_pb2, task_v2_pb2, types_pb2
from dunnage.api.typeurl import pack, unpack
def check():
    said = ours.TaskExit(container_id="c1", id="c1", pid=7)
    assert unpack(pack(said), ours.TaskExit) == said
    assert ours.TaskExit.DESCRIPTOR.file.name == "dunnage/api/events.proto"
"""
USE_PACKAGE = """
from containerd.events import task_pb2 as theirs
from containerd.services.ttrpc.events.v1 import events_pb2
from containerd.types.task import task_pb2
"""
COMPARE = """
check()
said = ours.TaskExit(container_id="c1", id="c1", pid=7)
assert theirs.TaskExit is not ours.TaskExit
assert theirs.TaskExit.DESCRIPTOR.full_name == ours.TaskExit.DESCRIPTOR.full_name
read = theirs.TaskExit.FromString(said.SerializeToString())
assert read.SerializeToString() == said.SerializeToString()
"""
USE_DEFAULT_POOL = """
import sys
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool
from google.protobuf import empty_pb2, timestamp_pb2
files = descriptor_pb2.FileDescriptorSet.FromString(open(sys.argv[1], "rb").read())
pool = descriptor_pool.Default()
for file in files.file:
    if not file.name.startswith("google/protobuf/"):
        pool.AddSerializedFile(file.SerializeToString())
assert pool.FindMessageTypeByName("containerd.events.TaskExit")
"""
COLLIDE = """
check()
try:
    pool.AddSerializedFile(ours.DESCRIPTOR.serialized_pb)
except TypeError:
    pass
else:
    raise AssertionError("the default pool took the same names twice")
"""


def run(program: str, *arguments: str, **environment: str) -> None:
    """Run a program in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("imports", [(USE_OURS, USE_PACKAGE), (USE_PACKAGE, USE_OURS)])
def test_beside_the_containerd_package(imports: tuple[str, str]) -> None:
    """private-pool: ours and the containerd package fit into one process, in any order.

    The package's generated code is of 2021, which protobuf's compiled implementation
    refuses whoever else is there; hence the one in Python.
    """
    run(
        "".join(imports) + COMPARE,
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python",
    )


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_beside_the_same_names_in_the_default_pool(first: str, tmp_path: Path) -> None:
    """private-pool: our messages work while the default pool holds containerd's own.

    This is protobuf's compiled implementation; the control shows a real clash.
    """
    root = peer("protos-1.6") / "usr/share/gocode/src"
    compiled = compile_protos(
        [root, root / "github.com/gogo/protobuf"],
        [
            "github.com/containerd/containerd/api/events/task.proto",
            "github.com/containerd/containerd/runtime/v2/task/shim.proto",
        ],
    )
    files = tmp_path / "files"
    files.write_bytes(FileDescriptorSet(file=compiled).SerializeToString())
    order = [USE_OURS, USE_DEFAULT_POOL]
    if first == "theirs":
        order.reverse()
    run("".join(order) + COLLIDE, str(files))


def test_default_pool_is_left_alone() -> None:
    """private-pool: importing ours neither fills nor needs the default pool."""
    run("""
import sys
from dunnage.api import services
from dunnage.ttrpc import wire_pb2
from google.protobuf import descriptor_pool
for name in ("google.protobuf.any_pb2", "google.protobuf.descriptor_pb2"):
    assert name not in sys.modules, name
for name in ("ttrpc.Request", "containerd.task.v2.StateRequest", "google.protobuf.Any"):
    try:
        descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        continue
    raise AssertionError(name)
""")


def test_well_known_messages_behave() -> None:
    """The well-known messages of the private pool have the methods of protobuf's."""
    then = Timestamp()
    then.FromNanoseconds(1_700_000_000_000_000_005)
    assert (then.seconds, then.nanos) == (1_700_000_000, 5)
    assert then.ToNanoseconds() == 1_700_000_000_000_000_005
    assert then.ToDatetime().year == 2023
    packed = Any()
    packed.Pack(then)
    assert packed.Is(Timestamp.DESCRIPTOR)
    read = Timestamp()
    assert packed.Unpack(read)
    assert read == then
    assert Empty().SerializeToString() == b""
    assert Timestamp.__module__ == "dunnage.descriptors"
