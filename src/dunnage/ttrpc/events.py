"""What can happen on a connection, as values; and a request as bytes and back.

Must not know: frames, which calls are in flight, what a payload means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import wire_pb2

if TYPE_CHECKING:
    from dunnage.errors import DunnageError


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """The peer calls a method; answer with ``stream_id``.

    ``timeout_ns`` is the time the peer will wait from now: 0 is for ever, less than 0
    is over already.
    A key of ``metadata`` may come several times.
    """

    stream_id: int
    service: str
    method: str
    payload: bytes = b""
    timeout_ns: int = 0
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """A call of ours succeeded."""

    stream_id: int
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call of ours failed: the peer said so, or its answer cannot be used."""

    stream_id: int
    error: DunnageError


def encode_request(request: RequestReceived) -> bytes:
    """Return the data of the frame that makes the peer receive ``request``."""
    pairs = [wire_pb2.KeyValue(key=key, value=value) for key, value in request.metadata]
    return wire_pb2.Request(
        service=request.service,
        method=request.method,
        payload=request.payload,
        timeout_nano=request.timeout_ns,
        metadata=pairs,
    ).SerializeToString()


def decode_request(stream_id: int, data: bytes) -> RequestReceived:
    """Return what a request frame says; protobuf's ``DecodeError`` if nothing."""
    request = wire_pb2.Request.FromString(data)
    return RequestReceived(
        stream_id,
        request.service,
        request.method,
        request.payload,
        request.timeout_nano,
        tuple((pair.key, pair.value) for pair in request.metadata),
    )
