"""How containerd names what is in an ``Any``: by the bare full name of the message.

``Any.Pack`` would put a host before the name; some of containerd's filters, and Docker,
resolve only the bare one.
Receiving is tolerant: the part after the last slash counts, as for containerd.

Must not know: the JSON that containerd puts into an ``Any`` too (specs, resources).
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from dunnage.descriptors import Any
from dunnage.errors import InvalidArgument

M = TypeVar("M", bound=Message)


def pack(message: Message) -> Any:
    """Return the message as an ``Any``."""
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def holds(packed: Any, kind: type[Message]) -> bool:
    """Tell whether the ``Any`` says that it holds such a message."""
    return packed.type_url.rpartition("/")[2] == kind.DESCRIPTOR.full_name


def unpack(packed: Any, kind: type[M]) -> M:
    """Return the message that the ``Any`` holds.

    Raises:
        InvalidArgument: it holds something else, or bytes that are no such message.
    """
    name = kind.DESCRIPTOR.full_name
    if not holds(packed, kind):
        raise InvalidArgument(f"got a {packed.type_url!r} where a {name} should be")
    try:
        return kind.FromString(packed.value)
    except DecodeError as error:
        raise InvalidArgument(f"not a {name}: {error}") from error
