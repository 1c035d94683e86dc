"""The private descriptor pool, and the well-known messages that live in it.

Owns one `DescriptorPool`; every generated ``*_pb2`` module of this package puts its
file there by `load` and gets its classes back.
protobuf's default pool is one per process and refuses a second definition of a name,
so there our messages would collide with any other package that speaks containerd's.

``Any``, ``Empty`` and ``Timestamp`` are defined here once more for the same reason: a
field of a message of this pool takes the classes of this pool, not those of
``google.protobuf.any_pb2``.
They have the same methods (``Pack``, ``ToDatetime``, …) and the same bytes.

Must not know: which messages there are.

Invariant (private-pool): nothing of this package is registered in the default pool,
and nothing of the default pool is needed to import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    from google.protobuf import any_pb2, empty_pb2, timestamp_pb2
    from google.protobuf.descriptor import FileDescriptor

    Any: TypeAlias = any_pb2.Any
    Empty: TypeAlias = empty_pb2.Empty
    Timestamp: TypeAlias = timestamp_pb2.Timestamp

POOL = DescriptorPool()


def load(module: dict[str, object], serialized: bytes) -> FileDescriptor:
    """Define a file in the private pool and bind what it declares.

    Args:
        module: the namespace that gets the message classes, the enums, and the values
            of the enums.
        serialized: the FileDescriptorProto; what it imports must be loaded already.
    """
    file = POOL.AddSerializedFile(serialized)
    for name, message in file.message_types_by_name.items():
        kind = GetMessageClass(message)
        kind.__module__ = str(module["__name__"])
        module[name] = kind
    for name, enum in file.enum_types_by_name.items():
        module[name] = EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
    return file


# FileDescriptorProtos without their options; a test compares them with protoc's own.
load(
    globals(),
    b"\n\x19google/protobuf/any.proto\x12\x0fgoogle.protobuf"
    b'"&\n\x03Any'
    b"\x12\x10\n\x08type_url\x18\x01 \x01(\t"
    b"\x12\r\n\x05value\x18\x02 \x01(\x0c"
    b"b\x06proto3",
)
load(
    globals(),
    b"\n\x1bgoogle/protobuf/empty.proto\x12\x0fgoogle.protobuf"
    b'"\x07\n\x05Empty'
    b"b\x06proto3",
)
load(
    globals(),
    b"\n\x1fgoogle/protobuf/timestamp.proto\x12\x0fgoogle.protobuf"
    b'"+\n\tTimestamp'
    b"\x12\x0f\n\x07seconds\x18\x01 \x01(\x03"
    b"\x12\r\n\x05nanos\x18\x02 \x01(\x05"
    b"b\x06proto3",
)
