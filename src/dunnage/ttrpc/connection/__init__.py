"""Both ends of a ttrpc connection without a socket: bytes in, events out.

- `base`: what both ends share.
- `client` and `server`: the end that calls and the end that is called.

Owns which calls are in flight, what the peer is answered when it breaks a rule, and the
bytes that are still to be written.
Must not know: sockets, loops, clocks, which services exist, what a payload means.

The contract in one sentence: whatever bytes come, in whatever chunks, you get events or
`RemoteProtocolError`, nothing else; what the caller does wrong is `LocalProtocolError`.

A stream is a call whose messages come in frames of their own: `StreamReadable` says
that there is something, `take` gives it.
There is no window in ttrpc: a peer may send what it likes.
So whoever drives a connection asks `is_full` after each `StreamReadable`, and pauses,
or gives that stream up.

Invariant (one-answer): a call in flight leaves that state with its one answer, and no
answer goes out for a call that is not in flight.
Invariant (one-step-id): a stream id is taken in the same step that queues its frame, so
ids go onto the wire in order.
"""

from __future__ import annotations

from .base import Connection
from .client import ClientConnection
from .server import ServerConnection

__all__ = ["ClientConnection", "Connection", "ServerConnection"]
