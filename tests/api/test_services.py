"""The tables of methods say what the services of the .proto files say."""

from __future__ import annotations

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from dunnage.api import forward_pb2, task_v2_pb2, task_v3_pb2
from dunnage.api.services import EVENTS, TASK_V2, TASK_V3


def declared(file: FileDescriptor) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the messages of each method of the services in a file."""
    return {
        (service.full_name, method.name): (
            method.input_type.full_name,
            method.output_type.full_name,
        )
        for service in file.services_by_name.values()
        for method in service.methods
    }


def test_task_v2() -> None:
    """Every method of Task v2 is in the table, with its messages."""
    assert declared(task_v2_pb2.DESCRIPTOR) == {
        (it.service, it.name): (
            it.request.DESCRIPTOR.full_name,
            it.response.DESCRIPTOR.full_name,
        )
        for it in TASK_V2
    }


def test_task_v3_is_v2_by_another_name() -> None:
    """The files of v2 and v3 differ by the package only: one handler serves both."""
    v2 = str(FileDescriptorProto.FromString(task_v2_pb2.DESCRIPTOR.serialized_pb))
    v3 = str(FileDescriptorProto.FromString(task_v3_pb2.DESCRIPTOR.serialized_pb))
    assert v3 == v2.replace("task.v2", "task.v3").replace("task_v2", "task_v3")
    assert [("containerd.task.v3.Task", it.name) for it in TASK_V2] == [
        (it.service, it.name) for it in TASK_V3
    ]


def test_attributes_are_named_after_the_methods() -> None:
    """A method is found under its own name, in Python's spelling."""
    for table in (TASK_V2, TASK_V3):
        named = {
            name.replace("_", ""): it.name.lower()
            for name, it in vars(table).items()
            if name != "service"
        }
        assert set(named) == set(named.values())
        assert all(name == method for name, method in named.items())


def test_events() -> None:
    """The events service is declared as it is in the table."""
    it = EVENTS.forward
    assert declared(forward_pb2.DESCRIPTOR) == {
        (it.service, it.name): (
            it.request.DESCRIPTOR.full_name,
            it.response.DESCRIPTOR.full_name,
        )
    }
