"""Requests as bytes and back."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError

from dunnage.ttrpc.events import RequestReceived, decode_request, encode_request

CONNECT = RequestReceived(
    1,
    "containerd.task.v2.Task",
    "Connect",
    b"\x0a\x02c1",
    5_000_000_000,
    (("containerd-namespace-ttrpc", "default"),),
)
CONNECT_DATA = bytes.fromhex(
    "0a17 636f6e7461696e6572642e7461736b2e76322e5461736b 1207 436f6e6e656374"
    "1a04 0a026331 2080e497d012 2a25 0a1a"
    "636f6e7461696e6572642d6e616d6573706163652d7474727063 1207 64656661756c74"
)


def test_a_request_has_the_bytes_of_containerd() -> None:
    """A request is encoded byte for byte as containerd encodes it."""
    assert CONNECT_DATA == encode_request(CONNECT)


def test_the_bytes_of_containerd_are_a_request() -> None:
    """What containerd encodes is decoded with every field."""
    assert CONNECT == decode_request(1, CONNECT_DATA)


def test_a_negative_timeout_and_repeated_keys_survive() -> None:
    """A time-out that is over, and a key with two values, come back as they were."""
    request = RequestReceived(3, "s", "m", b"", -1, (("k", "1"), ("k", "2")))
    assert request == decode_request(3, encode_request(request))


def test_what_is_no_request_is_a_decode_error() -> None:
    """Bytes that are no request raise protobuf's error."""
    with pytest.raises(DecodeError):
        decode_request(1, b"\xff")
