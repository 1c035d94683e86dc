"""Saying an event by ttrpc: Forward, one at a time, on a connection that is kept.

Owns: the connection to the daemon's event socket, and what each answer means.
Must not know: queues, retries.

An unanswered Forward is not given up while its connection lives: the daemon may have
taken it, and would be told twice.
After `ANSWER_LIMIT_S` the connection is closed by us, which counts as lost.
"""

from __future__ import annotations

import asyncio
from typing import Final

from dunnage.api.forward_pb2 import ForwardRequest
from dunnage.api.services import EVENTS
from dunnage.errors import (
    ConnectionBroken,
    ConnectionClosed,
    DunnageError,
    RemoteProtocolError,
)
from dunnage.ttrpc.aio.client import Client

from . import envelope
from .ways import NotNow, Refused, Troubled

NAMESPACE_KEY: Final = "containerd-namespace-ttrpc"

CONNECT_LIMIT_S: Final = 5.0
ANSWER_LIMIT_S: Final = 300.0

# A ttrpc message has at most 4 MiB; names and namespace of the request take their part.
ENVELOPE_LIMIT_BYTES: Final = (4 << 20) - 1024

# Answers that repeating cannot change: invalid argument, no such service, too large.
_FOR_GOOD: Final = frozenset((3, 12, 8))
# Answers that say nothing about the event: deadline exceeded, unavailable.
_PASSING: Final = frozenset((4, 14))


class ForwardWay:
    """The way to the daemon's Events service."""

    def __init__(
        self,
        namespace: str,
        address: str,
        *,
        answer_limit_s: float = ANSWER_LIMIT_S,
        connect_limit_s: float = CONNECT_LIMIT_S,
    ) -> None:
        self._metadata = {NAMESPACE_KEY: namespace}
        # TTRPC_ADDRESS is a bare path; a shim's address without a scheme is not.
        self._address = address if "://" in address else f"unix://{address}"
        self._answer_limit_s = answer_limit_s
        self._connect_limit_s = connect_limit_s
        self._client: Client | None = None
        self._closed = False

    async def say(self, data: bytes) -> None:
        """Forward the envelope ``data``.

        Cancelling it leaves open whether the daemon took it.

        Raises:
            NotNow: the daemon is away, or in trouble that has nothing to do with us.
            Troubled: it answered with an error that may or may not pass.
            Refused: it does not want this event, or could not even read it.
        """
        if len(data) > ENVELOPE_LIMIT_BYTES:
            raise Refused(f"envelope of {len(data)} bytes is above the frame limit")
        request = ForwardRequest(envelope=envelope.decode(data))
        client = await self._connected()
        limit = asyncio.get_running_loop().call_later(
            self._answer_limit_s, client.close
        )
        try:
            await client.call(EVENTS.forward, request, metadata=self._metadata)
        except (ConnectionBroken, ConnectionClosed) as error:
            raise NotNow(f"connection lost: {error}") from error
        except RemoteProtocolError as error:
            # Its code is that of a refusal, but nobody answered with it.
            raise Troubled(f"unreadable answer: {error}") from error
        except DunnageError as error:
            reason = f"answer {error.code}: {error}"
            if error.code in _FOR_GOOD:
                raise Refused(reason) from error
            kind = NotNow if error.code in _PASSING else Troubled
            raise kind(reason) from error
        finally:
            limit.cancel()

    def close(self) -> None:
        """Close the connection; a `say` in progress ends with NotNow."""
        self._closed = True
        if self._client is not None:
            self._client.close()

    async def _connected(self) -> Client:
        if self._client is not None and not self._client.closed.done():
            return self._client
        try:
            self._client = await Client.connect(
                self._address, timeout_s=self._connect_limit_s
            )
        except (OSError, DunnageError) as error:
            raise NotNow(f"{self._address}: {error}") from error
        if self._closed:  # while it was connecting
            self._client.close()
        return self._client
