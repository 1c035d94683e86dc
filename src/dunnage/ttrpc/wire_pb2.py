"""Made by script/protos from proto/dunnage/ttrpc/wire.proto: do not edit."""

from __future__ import annotations

import dunnage.ttrpc.status_pb2  # defines what is used here
from dunnage.descriptors import load

DESCRIPTOR = load(globals(), b'\n\x18dunnage/ttrpc/wire.proto\x12\x05ttrpc\x1a\x1adunnage/ttrpc/status.proto"t\n\x07Request\x12\x0f\n\x07service\x18\x01 \x01(\t\x12\x0e\n\x06method\x18\x02 \x01(\t\x12\x0f\n\x07payload\x18\x03 \x01(\x0c\x12\x14\n\x0ctimeout_nano\x18\x04 \x01(\x03\x12!\n\x08metadata\x18\x05 \x03(\x0b2\x0f.ttrpc.KeyValue"?\n\x08Response\x12"\n\x06status\x18\x01 \x01(\x0b2\x12.google.rpc.Status\x12\x0f\n\x07payload\x18\x02 \x01(\x0c"\x1a\n\nStringList\x12\x0c\n\x04list\x18\x01 \x03(\t"&\n\x08KeyValue\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\tb\x06proto3')
