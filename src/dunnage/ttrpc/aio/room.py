"""Which connections a server keeps when there is no room for all of them.

Owns who is open, who has spoken, and how much of messages that are not whole yet is
held for each.
Must not know: how a connection is served.

ttrpc lets anyone announce 4 MiB, send all but the last byte, and rest; a thousand that
do so would hold 4 GiB.
So beyond `UNREAD_LIMIT_BYTES` in all a connection goes: of those that hold something,
one that never sent a whole request before one that did, then the one that holds most,
then the one that sent nothing for longest.
A frame that is whole is no longer of account, as its call has begun.

Invariant (bounded-unread): after each read all connections together hold no more than
the limit of messages that are not whole.
Invariant (who-speaks-stays): for want of a place or a descriptor only a connection is
closed that has not sent a whole request yet, the oldest such first, or the one that
just came.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from .context import Peer

_log: Final = logging.getLogger("dunnage.ttrpc")

UNREAD_LIMIT_BYTES: Final = 64 << 20
"""What all connections of a server may hold of messages that are not whole yet."""


class Guest(Protocol):
    """What is known of a connection here."""

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        ...

    def close(self) -> None:
        """End it now; it leaves the room on that."""
        ...


class Room:
    """Who of the connections of a server may be asked to leave.

    Args:
        unread_limit_bytes: What they may hold together of messages that are not whole.
    """

    def __init__(self, unread_limit_bytes: int = UNREAD_LIMIT_BYTES) -> None:
        self._limit_bytes = unread_limit_bytes
        # Who has sent no whole request yet, the oldest first.
        self._silent: dict[Guest, None] = {}
        # Who is in the middle of a message; who sent the last bytes is last.
        self._unread: dict[Guest, int] = {}
        self._unread_bytes = 0

    def enter(self, guest: Guest) -> None:
        """Note a new connection."""
        self._silent[guest] = None

    def spoke(self, guest: Guest) -> None:
        """Note that a connection has sent a whole request."""
        self._silent.pop(guest, None)

    def leave(self, guest: Guest) -> None:
        """Note that a connection has ended."""
        self._silent.pop(guest, None)
        self._unread_bytes -= self._unread.pop(guest, 0)

    def hold(self, guest: Guest, unread_bytes: int) -> None:
        """Note what is held for a connection now; close who holds too much, if any."""
        self._unread_bytes += unread_bytes - self._unread.pop(guest, 0)
        if unread_bytes:
            self._unread[guest] = unread_bytes
        while self._unread_bytes > self._limit_bytes:
            worst = max(self._unread, key=self._badness)
            _log.warning(
                "closed a connection of %s: too much is held of messages that are "
                "not whole, %d bytes of its own",
                worst.peer,
                self._unread[worst],
            )
            worst.close()

    def make(self) -> bool:
        """Close a connection that has said nothing; return whether there was one."""
        for guest in self._silent:
            _log.warning("closed a silent connection of %s for another", guest.peer)
            guest.close()
            return True
        return False

    def _badness(self, guest: Guest) -> tuple[bool, int]:
        return guest in self._silent, self._unread[guest]
