"""Our own terminal, while a container's is shown in it.

Owns: its mode, its size, and SIGWINCH.
Must not know: tasks.

Invariant (mode-put-back): however the block ends, our terminal is left as it was found.
"""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import tty
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from dunnage.errors import DunnageError, InvalidArgument
from dunnage.manager.spec import Size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

_STDIN: Final = 0
_STDOUT: Final = 1
_DEFAULT: Final = Size(80, 24)


def check(*, is_interactive: bool) -> None:
    """Refuse input that is no terminal: of a pipe's end a terminal knows nothing."""
    if is_interactive and not os.isatty(_STDIN):
        raise InvalidArgument("-t with -i: our input is not a terminal")


def size() -> Size:
    """Return the size of our terminal, or what is usual if there is none."""
    for fd in (_STDOUT, _STDIN):
        with suppress(OSError):
            width, height = os.get_terminal_size(fd)
            if width and height:
                return Size(width, height)
    return _DEFAULT


class Terminal:
    """Use it as a context manager, while the process in the container runs.

    With ``is_interactive`` our keys are its keys: ^C is a byte like any other.
    """

    def __init__(
        self, resize: Callable[[int, int], Awaitable[None]], *, is_interactive: bool
    ) -> None:
        self._resize = resize
        self._is_interactive = is_interactive
        self._mode: list[Any] | None = None
        self._said: Size | None = None
        self._saying: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        """Hand our terminal over."""
        self._loop.add_signal_handler(signal.SIGWINCH, self._changed)
        if self._is_interactive:
            self._mode = termios.tcgetattr(_STDIN)
            tty.setraw(_STDIN, termios.TCSANOW)
        self._changed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take it back."""
        self._loop.remove_signal_handler(signal.SIGWINCH)
        if self._saying:
            self._saying.cancel()
        if self._mode is not None:
            with suppress(termios.error):  # it has hung up
                termios.tcsetattr(_STDIN, termios.TCSADRAIN, self._mode)

    def _changed(self) -> None:
        if self._saying is None or self._saying.done():
            self._saying = self._loop.create_task(self._say())

    async def _say(self) -> None:
        """Say the size until it is the one that was said last."""
        while (now := size()) != self._said:
            self._said = now
            with suppress(DunnageError):  # it is gone already
                await self._resize(now.width, now.height)
