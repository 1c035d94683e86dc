"""Made by script/protos from proto/dunnage/api/types.proto: do not edit."""

from __future__ import annotations

from dunnage.descriptors import load

DESCRIPTOR = load(globals(), b'\n\x17dunnage/api/types.proto\x12\x10containerd.types\x1a\x19google/protobuf/any.proto"F\n\x05Mount\x12\x0c\n\x04type\x18\x01 \x01(\t\x12\x0e\n\x06source\x18\x02 \x01(\t\x12\x0e\n\x06target\x18\x03 \x01(\t\x12\x0f\n\x07options\x18\x04 \x03(\t"M\n\x0eRuntimeRequest\x12\x14\n\x0cruntime_path\x18\x01 \x01(\t\x12%\n\x07options\x18\x02 \x01(\x0b2\x14.google.protobuf.Any"3\n\x0eRuntimeVersion\x12\x0f\n\x07version\x18\x01 \x01(\t\x12\x10\n\x08revision\x18\x02 \x01(\t"\x96\x02\n\x0bRuntimeInfo\x12\x0c\n\x04name\x18\x01 \x01(\t\x121\n\x07version\x18\x02 \x01(\x0b2 .containerd.types.RuntimeVersion\x12%\n\x07options\x18\x03 \x01(\x0b2\x14.google.protobuf.Any\x12&\n\x08features\x18\x04 \x01(\x0b2\x14.google.protobuf.Any\x12C\n\x0bannotations\x18\x05 \x03(\x0b2..containerd.types.RuntimeInfo.AnnotationsEntry\x1a2\n\x10AnnotationsEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x028\x01b\x06proto3')
