"""Made by script/protos from proto/dunnage/ttrpc/status.proto: do not edit."""

from __future__ import annotations

from dunnage.descriptors import load

DESCRIPTOR = load(globals(), b'\n\x1adunnage/ttrpc/status.proto\x12\ngoogle.rpc\x1a\x19google/protobuf/any.proto"N\n\x06Status\x12\x0c\n\x04code\x18\x01 \x01(\x05\x12\x0f\n\x07message\x18\x02 \x01(\t\x12%\n\x07details\x18\x03 \x03(\x0b2\x14.google.protobuf.Anyb\x06proto3')
