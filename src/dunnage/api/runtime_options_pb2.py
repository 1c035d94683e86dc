"""Made by script/protos from proto/dunnage/api/runtime_options.proto: do not edit."""

from __future__ import annotations

from dunnage.descriptors import load

DESCRIPTOR = load(globals(), b'\n!dunnage/api/runtime_options.proto\x12\x11runtimeoptions.v1"E\n\x07Options\x12\x10\n\x08type_url\x18\x01 \x01(\t\x12\x13\n\x0bconfig_path\x18\x02 \x01(\t\x12\x13\n\x0bconfig_body\x18\x03 \x01(\x0cb\x06proto3')
