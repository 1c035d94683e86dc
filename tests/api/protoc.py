"""Compiles .proto files, ours and those of the real peers, and flattens the result."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("DUNNAGE_PEERS", ROOT / ".peers"))


def peer(name: str) -> Path:
    """Return the folder of a peer; a peer that is missing fails the test."""
    if not (PEERS / name / "VERSION").exists():
        pytest.fail(f"{PEERS / name} is missing: run script/peers")
    return PEERS / name


def version_of(name: str, package: str) -> tuple[int, int]:
    """Return the first two numbers of the version of a package of a peer."""
    text = (peer(name) / "VERSION").read_text()
    found = re.search(rf"^{re.escape(package)} (\d+)\.(\d+)", text, re.MULTILINE)
    assert found, text
    return int(found[1]), int(found[2])


def compile_protos(
    include: Iterable[Path], files: Iterable[str]
) -> list[FileDescriptorProto]:
    """Return what protoc makes of the files and of all that they import."""
    with tempfile.NamedTemporaryFile() as out:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", "--include_imports"),
                *(f"-I{path}" for path in include),
                f"--descriptor_set_out={out.name}",
                *files,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return list(FileDescriptorSet.FromString(Path(out.name).read_bytes()).file)


def flatten(file: FileDescriptorProto) -> dict[str, object]:
    """Return everything that the wire depends on, by full name."""
    facts: dict[str, object] = {}
    for message in file.message_type:
        facts |= _message(file.package, message)
    for enum in file.enum_type:
        facts |= _enum(file.package, enum)
    for service in file.service:
        name = f"{file.package}.{service.name}"
        facts[name] = "service"
        for method in service.method:
            facts[f"{name}.{method.name}"] = (
                method.input_type,
                method.output_type,
                method.client_streaming,
                method.server_streaming,
            )
    return facts


def renamed(facts: dict[str, object], old: str, new: str) -> dict[str, object]:
    """Return the facts with one message called by another name."""

    def new_name(text: object) -> object:
        return text.replace(old, new) if isinstance(text, str) else text

    return {
        name.replace(old, new): tuple(map(new_name, fact))
        if isinstance(fact, tuple)
        else fact
        for name, fact in facts.items()
    }


def _message(scope: str, message: DescriptorProto) -> Iterator[tuple[str, object]]:
    name = f"{scope}.{message.name}".lstrip(".")
    yield name, "map entry" if message.options.map_entry else "message"
    for enum in message.enum_type:
        yield from _enum(name, enum)
    for nested in message.nested_type:
        yield from _message(name, nested)
    for field in message.field:
        yield (
            f"{name}.{field.name}",
            (
                field.number,
                FieldDescriptorProto.Label.Name(field.label),
                FieldDescriptorProto.Type.Name(field.type),
                field.type_name,
                field.proto3_optional,
            ),
        )


def _enum(scope: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, object]]:
    name = f"{scope}.{enum.name}"
    yield name, "enum"
    for value in enum.value:
        yield f"{name}.{value.name}", value.number
