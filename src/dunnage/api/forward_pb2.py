"""Made by script/protos from proto/dunnage/api/forward.proto: do not edit."""

from __future__ import annotations

from dunnage.descriptors import load

DESCRIPTOR = load(globals(), b'\n\x19dunnage/api/forward.proto\x12#containerd.services.events.ttrpc.v1\x1a\x19google/protobuf/any.proto\x1a\x1bgoogle/protobuf/empty.proto\x1a\x1fgoogle/protobuf/timestamp.proto"Q\n\x0eForwardRequest\x12?\n\x08envelope\x18\x01 \x01(\x0b2-.containerd.services.events.ttrpc.v1.Envelope"\x80\x01\n\x08Envelope\x12-\n\ttimestamp\x18\x01 \x01(\x0b2\x1a.google.protobuf.Timestamp\x12\x11\n\tnamespace\x18\x02 \x01(\t\x12\r\n\x05topic\x18\x03 \x01(\t\x12#\n\x05event\x18\x04 \x01(\x0b2\x14.google.protobuf.Any2`\n\x06Events\x12V\n\x07Forward\x123.containerd.services.events.ttrpc.v1.ForwardRequest\x1a\x16.google.protobuf.Emptyb\x06proto3')
