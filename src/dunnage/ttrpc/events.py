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
    ``is_open`` says that messages may follow on this stream.
    """

    stream_id: int
    service: str
    method: str
    payload: bytes = b""
    timeout_ns: int = 0
    metadata: tuple[tuple[str, str], ...] = ()
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class StreamReadable:
    """A message, or the end, has come on a stream: `take` it, until it has no more."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """A unary call of ours succeeded."""

    stream_id: int
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call is over, without success.

    A unary call of ours: the peer said so, or its answer cannot be used.
    A stream that we serve: the peer broke a rule, and was answered with ``error``.
    """

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


def decode_request(
    stream_id: int, data: bytes, *, is_open: bool = False
) -> RequestReceived:
    """Return what a request frame says; protobuf's ``DecodeError`` if nothing."""
    request = wire_pb2.Request.FromString(data)
    metadata = request.metadata
    return RequestReceived(
        stream_id,
        request.service,
        request.method,
        request.payload,
        request.timeout_nano,
        tuple((pair.key, pair.value) for pair in metadata) if metadata else (),
        is_open,
    )
