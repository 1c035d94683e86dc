"""Made by script/protos from proto/dunnage/api/process.proto: do not edit."""

from __future__ import annotations

from dunnage.descriptors import load

DESCRIPTOR = load(globals(), b'\n\x19dunnage/api/process.proto\x12\x13containerd.v1.types\x1a\x19google/protobuf/any.proto">\n\x0bProcessInfo\x12\x0b\n\x03pid\x18\x01 \x01(\r\x12"\n\x04info\x18\x02 \x01(\x0b2\x14.google.protobuf.Any*U\n\x06Status\x12\x0b\n\x07UNKNOWN\x10\x00\x12\x0b\n\x07CREATED\x10\x01\x12\x0b\n\x07RUNNING\x10\x02\x12\x0b\n\x07STOPPED\x10\x03\x12\n\n\x06PAUSED\x10\x04\x12\x0b\n\x07PAUSING\x10\x05b\x06proto3')
