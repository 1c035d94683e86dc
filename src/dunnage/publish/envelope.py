"""A task's event as the envelope that the daemon takes, and back.

Owns: the translation of each event of ``dunnage.task.events`` to its message.
Must not know: queues, connections.

Fields have the same names on both sides, so only the differences are written down
here: times, and what protobuf's types would refuse.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final

from dunnage.api import events_pb2, forward_pb2, typeurl
from dunnage.api.times import timestamp
from dunnage.api.topics import TOPICS

if TYPE_CHECKING:
    from dunnage.task.events import Event

# The zero of Go's time, year 1: "there is no such time".
_ZERO_SECONDS: Final = -62135596800

_UINT32: Final = 0xFFFFFFFF


def encode(event: Event, namespace: str, at_ns: int) -> bytes:
    """Return the envelope of an event that happened at ``at_ns``; never fails."""
    message = getattr(events_pb2, type(event).__name__)(**_wire(event))
    packed = typeurl.pack(message)
    return forward_pb2.Envelope(
        timestamp=timestamp(at_ns),
        namespace=namespace,
        topic=TOPICS[packed.type_url],
        event=packed,
    ).SerializeToString()


def decode(data: bytes) -> forward_pb2.Envelope:
    """Return the message that `encode` made the bytes of."""
    return forward_pb2.Envelope.FromString(data)


def describe(data: bytes) -> str:
    """Return an envelope as one line for the log."""
    envelope = decode(data)
    return f"{envelope.topic} {' '.join(str(_event(envelope)).split())}"


def container(data: bytes) -> str:
    """Return the id of the container that an envelope is about."""
    return str(_event(decode(data)).container_id)


def _event(envelope: forward_pb2.Envelope) -> Any:
    _, _, name = envelope.event.type_url.rpartition(".")
    return getattr(events_pb2, name).FromString(envelope.event.value)


def _wire(value: Any) -> Any:
    """Return a field's value as protobuf's constructors take it."""
    if is_dataclass(value):
        wire = {}
        for field in fields(value):
            inner = getattr(value, field.name)
            if field.name.endswith("_ns"):
                wire[field.name.removesuffix("_ns")] = timestamp(inner)
            else:
                wire[field.name] = _wire(inner)
        return wire
    if isinstance(value, tuple):
        return [_wire(inner) for inner in value]
    if isinstance(value, str):
        # A path may hold bytes that are no UTF-8; better a "?" than no event.
        return value.encode("utf-8", "replace").decode()
    # The kernel's -1 is 4294967295 on the wire, as in Go.
    return value if isinstance(value, bool) else value & _UINT32
