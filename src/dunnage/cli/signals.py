"""Signals that we get and the process in the container should.

Owns: which ones, and what the third of them means.
Must not know: tasks.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from dunnage.errors import DunnageError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

_FORWARDED: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
# The first ones may be ignored, as by every PID 1 without a handler.
_PATIENCE: Final = 3


def parse(text: str) -> int:
    """Return the number of a signal, given by number or by name with or without SIG.

    Raises:
        InvalidArgument: there is no such signal.
    """
    name = text.upper()
    try:
        number = (
            int(text)
            if text.isascii() and text.isdecimal()
            else signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].value
        )
    except KeyError:
        raise InvalidArgument(f"unknown signal {text!r}") from None
    # Real-time signals have no names of their own.
    if not 0 < number < signal.NSIG:
        raise InvalidArgument(f"unknown signal {text!r}")
    return number


class Forwarding:
    """Sends on what comes while the block runs; before `begin`, it is kept.

    The third one is a SIGKILL, and cancels the block if there is nothing to kill yet.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = asyncio.current_task()
        self._kill: Callable[[int], Awaitable[None]] | None = None
        self._kept: list[int] = []
        self._count = 0
        self._sends: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        """Begin to listen."""
        for number in _FORWARDED:
            self._loop.add_signal_handler(number, self._on_signal, number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop: signals end this process again."""
        for number in _FORWARDED:
            self._loop.remove_signal_handler(number)
        for task in self._sends:
            task.cancel()

    def begin(self, kill: Callable[[int], Awaitable[None]]) -> None:
        """Have signals sent by ``kill`` from now on."""
        self._kill = kill
        for number in self._kept:
            self._send(number)

    def end(self) -> None:
        """Have the process left alone: it is gone."""
        self._kill = None

    def _on_signal(self, number: int) -> None:
        self._count += 1
        last = self._count >= _PATIENCE
        if self._kill is not None:
            self._send(signal.SIGKILL if last else number)
        elif last and self._owner is not None:
            self._owner.cancel()
        else:
            self._kept.append(number)

    def _send(self, number: int) -> None:
        assert self._kill is not None
        task = self._loop.create_task(_quietly(self._kill, number))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)


async def _quietly(kill: Callable[[int], Awaitable[None]], number: int) -> None:
    # It may be gone already.
    with suppress(DunnageError):
        await kill(number)
