"""What the tests of ttrpc share: a message with a codec of its own, and waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from dunnage.ttrpc.frames import Flag, Frame, FrameType, encode_frame
from dunnage.ttrpc.services import Kind, Method
from dunnage.ttrpc.status_pb2 import Status
from dunnage.ttrpc.wire_pb2 import Request, Response

LIMIT_S = 10.0
"""No test waits longer than this for anything."""

T = TypeVar("T")


@dataclass(frozen=True)
class Note:
    """A message that has nothing to do with protobuf."""

    text: str = ""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return the text as UTF-8."""
        return self.text.encode()

    @classmethod
    def FromString(cls, data: bytes, /) -> Self:  # noqa: N802 - protobuf's name
        """Return the note; `UnicodeDecodeError` if it is no UTF-8."""
        return cls(data.decode())


ECHO = Method("notes.Notes", "Echo", Note, Note)
HOLD = Method("notes.Notes", "Hold", Note, Note)
COUNT = Method("notes.Notes", "Count", Note, Note, Kind.SERVER_STREAM)
JOIN = Method("notes.Notes", "Join", Note, Note, Kind.CLIENT_STREAM)
CHAT = Method("notes.Notes", "Chat", Note, Note, Kind.BOTH_STREAM)

LAST = Flag.REMOTE_CLOSED | Flag.NO_DATA
"""The flags of a data frame that only says that no more will come."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own, within the limit."""

    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await work

    return asyncio.run(limited())


async def wait_until(condition: Callable[[], object]) -> None:
    """Let the loop turn until the condition holds; `run` limits how long."""
    while not condition():
        await asyncio.sleep(0.001)


def request_frame(
    stream_id: int,
    service: str = "s",
    method: str = "m",
    payload: bytes = b"",
    flags: int = 0,
) -> bytes:
    """Return a request as bytes; a unary one unless there are flags."""
    request = Request(service=service, method=method, payload=payload)
    data = request.SerializeToString()
    return encode_frame(Frame(stream_id, FrameType.REQUEST, flags, data))


def data_frame(stream_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Return one message of a stream as bytes."""
    return encode_frame(Frame(stream_id, FrameType.DATA, flags, payload))


def response_frame(stream_id: int, payload: bytes = b"") -> bytes:
    """Return a successful response as bytes."""
    data = Response(payload=payload).SerializeToString()
    return encode_frame(Frame(stream_id, FrameType.RESPONSE, 0, data))


def error_frame(stream_id: int, code: int, text: str) -> bytes:
    """Return a response that says an error, as bytes."""
    response = Response(status=Status(code=code, message=text))
    data = response.SerializeToString()
    return encode_frame(Frame(stream_id, FrameType.RESPONSE, 0, data))
