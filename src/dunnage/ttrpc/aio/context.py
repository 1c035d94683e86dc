"""What a handler may know about its call: who asks, what came along, until when.

Must not know: connections, handlers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as the kernel saw it at that moment."""

    pid: int = 0
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler may want to know about its call.

    ``metadata`` has lower-case keys; of a key that came several times, the first value.
    ``deadline`` is a time of the running loop's clock, after which nobody waits for the
    reply any more; None if the caller waits for ever.
    A handler is not cancelled for it; its stream, if it has one, fails when it is used.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    peer: Peer = Peer()
