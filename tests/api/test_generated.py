"""What is committed is what script/protos makes of proto/."""

from __future__ import annotations

import importlib

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from tests.api.protoc import ROOT, compile_protos

from dunnage.descriptors import POOL


def bare(file: FileDescriptorProto) -> FileDescriptorProto:
    """Take off what the wire does not depend on."""
    file.ClearField("options")

    def visit(message: DescriptorProto) -> None:
        for field in message.field:
            field.ClearField("json_name")
        for nested in message.nested_type:
            visit(nested)

    for message in file.message_type:
        visit(message)
    return file


def test_modules_are_in_step_with_proto() -> None:
    """Each .proto file, and each well-known one, is in the pool as it is written."""
    root = ROOT / "proto"
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.proto"))
    compiled = {file.name: bare(file) for file in compile_protos([root], names)}
    assert set(names) == {name for name in compiled if name.startswith("dunnage/")}
    for name, file in compiled.items():
        if name in names:
            importlib.import_module(
                name.removesuffix(".proto").replace("/", ".") + "_pb2"
            )
        loaded = POOL.FindFileByName(name).serialized_pb
        assert file == FileDescriptorProto.FromString(loaded), name


def test_every_module_has_a_proto() -> None:
    """No generated module is left over from a .proto file that is gone."""
    modules = {
        str(path.relative_to(ROOT / "src")).removesuffix("_pb2.py")
        for path in (ROOT / "src").rglob("*_pb2.py")
    }
    assert modules == {
        str(path.relative_to(ROOT / "proto")).removesuffix(".proto")
        for path in (ROOT / "proto").rglob("*.proto")
    }
