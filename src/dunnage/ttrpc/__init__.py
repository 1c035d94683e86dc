"""ttrpc for Python: small RPC over a stream socket, spoken by containerd, NRI, kata.

A sans-IO core (bytes in, events out) with an asyncio client and server on it.

- `dunnage.ttrpc.services`: what a message and a method are; start here.
- `dunnage.ttrpc.aio.client` and `dunnage.ttrpc.aio.server`: talk to somebody.
- `dunnage.ttrpc.connection` and `dunnage.ttrpc.frames`: the protocol without a socket.

It knows nothing of containerd; messages are anything that can turn itself into bytes
and back, such as the classes that protobuf generates.
"""

from __future__ import annotations
