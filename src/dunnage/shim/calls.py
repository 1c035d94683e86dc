"""What the shim is busy with, and since when: calls of its clients, and their work.

Owns: the list of what is under way, and the debug record at the end of each call.
Must not know: what a call does.

An operation may outlive its call, so both are listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

from dunnage.ttrpc.aio.server import Context, Server
from dunnage.ttrpc.services import Method

from . import log

_log = logging.getLogger(__name__)

_Handler = Callable[[Any, Context], Awaitable[Any]]

_call: ContextVar[str] = ContextVar("_call", default="")
"""The call on whose behalf the running code works."""


class Calls:
    """The calls and operations under way."""

    def __init__(self) -> None:
        self._open: dict[object, tuple[str, float]] = {}

    def register(
        self, server: Server, method: Method[Any, Any], does: _Handler
    ) -> None:
        """Have ``does`` answer a method, each call listed and logged."""

        async def handle(request: Any, context: Context) -> Any:
            container = getattr(request, "id", "")
            name = f"{method.name} {getattr(request, 'exec_id', '')}".strip()
            log.about.set(container)  # a handler has a task, so a context, of its own
            _call.set(f"{name} of {container}" if container else name)
            with self.under_way(f"call {_call.get()}"), logged(f"call {name}"):
                return await does(request, context)

        server.register(method, handle)

    @contextlib.contextmanager
    def under_way(self, text: str) -> Iterator[None]:
        """List something for the length of the block."""
        key = object()
        self._open[key] = (text, asyncio.get_running_loop().time())
        try:
            yield
        finally:
            del self._open[key]

    def track(self, operation: asyncio.Task[Any], name: str) -> None:
        """List an operation until it ends, as the running call's if there is one."""
        now = operation.get_loop().time()
        self._open[operation] = (f"operation {_call.get() or name}", now)
        operation.add_done_callback(self._open.pop)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Yield what is under way, and for how many seconds."""
        now = asyncio.get_running_loop().time()
        for text, began in list(self._open.values()):
            yield text, now - began


@contextlib.contextmanager
def logged(text: str) -> Iterator[None]:
    """Log how the block ended and how long it took, as a debug record."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    outcome = "done"
    try:
        yield
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
        raise
    finally:
        _log.debug("%s: %s after %.3f s", text, outcome, loop.time() - began)
