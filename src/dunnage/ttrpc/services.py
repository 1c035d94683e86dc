"""What a message and a method are: the vocabulary in which services are described.

A service is described by `Method` values, made once, typically as module constants::

    PING = Method("example.Pinger", "Ping", PingRequest, PingResponse)

Both sides use the same value: the client calls it, the server registers a handler for
it, and the types of request and response follow from it.

Must not know: frames, connections, sockets, any codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, Self, TypeVar


class Message(Protocol):
    """Anything that can turn itself into bytes and back.

    The two names are protobuf's, whose generated classes fit as they are.
    """

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return the message as bytes."""
        ...

    @classmethod
    def FromString(cls, data: bytes, /) -> Self:  # noqa: N802 - protobuf's name
        """Return the message that ``data`` stands for; raise what the codec raises."""
        ...


class Kind(Enum):
    """Who sends how many messages in one call."""

    UNARY = "unary"
    """One request, one response."""

    CLIENT_STREAM = "client stream"
    """Any number of requests, then one response."""

    SERVER_STREAM = "server stream"
    """One request, then any number of responses."""

    BOTH_STREAM = "both stream"
    """Any number of requests and of responses, each side at its own pace."""

    @property
    def client_streams(self) -> bool:
        """Whether requests are a stream."""
        return self in {Kind.CLIENT_STREAM, Kind.BOTH_STREAM}

    @property
    def server_streams(self) -> bool:
        """Whether responses are a stream."""
        return self in {Kind.SERVER_STREAM, Kind.BOTH_STREAM}


Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Resp]):
    """One method of a service, with the types of its messages."""

    service: str
    name: str
    request: type[Req]
    response: type[Resp]
    kind: Kind = Kind.UNARY

    @property
    def full_name(self) -> str:
        """The name by which people and logs call it: ``service/method``."""
        return f"{self.service}/{self.name}"
