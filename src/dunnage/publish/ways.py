"""What a publisher asks of a way to say an event, and what can become of it.

Owns: the port, the three outcomes that are not success, and the way of last resort.
Must not know: queues, retries.
"""

from __future__ import annotations

import logging
from typing import Protocol

from . import envelope

log = logging.getLogger(__name__)


class NotNow(Exception):
    """Nobody could take it now, which is not its fault; try again, for ever."""


class Troubled(Exception):
    """It was answered with trouble that may be ours; try again, but not for ever."""


class Refused(Exception):
    """It was refused for good; trying again cannot help."""


class Way(Protocol):
    """How one event gets to those who want to know."""

    async def say(self, data: bytes) -> None:
        """Say the envelope ``data``; return when it was taken.

        Cancelling it leaves open whether it was taken.

        Raises:
            NotNow, Troubled, Refused: it was not, as far as can be known.
        """

    def close(self) -> None:
        """Let go of what it holds; a `say` in progress ends with NotNow."""


class LogOnly:
    """The way of a shim that nobody has told where to: into the log."""

    async def say(self, data: bytes) -> None:
        """Log the event."""
        log.info("event: %s", envelope.describe(data))

    def close(self) -> None:
        """Do nothing: it holds nothing."""
