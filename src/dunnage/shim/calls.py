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
from contextvars import ContextVar, copy_context
from typing import Any

from dunnage.ttrpc.aio.server import Context, Server
from dunnage.ttrpc.services import Method

from . import log

_log = logging.getLogger(__name__)

_Handler = Callable[[Any, Context], Awaitable[Any]]

_call: ContextVar[str] = ContextVar("_call", default="")
"""The call on whose behalf the running code works."""


class Calls:
    """The calls and operations under way.

    Args:
        stir: told at the end of each.
    """

    def __init__(self, stir: Callable[[], None]) -> None:
        self._stir = stir
        self._open: dict[object, tuple[str, float]] = {}

    def register(
        self, server: Server, method: Method[Any, Any], does: _Handler
    ) -> None:
        """Have ``does`` answer a method, each call listed and logged."""

        async def handle(request: Any, context: Context) -> Any:
            with self._listed(method, request):
                return await does(request, context)

        server.register(method, handle)

    def register_sync(
        self,
        server: Server,
        method: Method[Any, Any],
        does: Callable[[Any, Context], Any],
    ) -> None:
        """Have ``does`` answer a method at once, each call logged."""

        def handle(request: Any, context: Context) -> Any:
            with self._listed(method, request):
                return does(request, context)

        # What is said of this call is to be said of no other.
        server.register_sync(method, lambda *given: copy_context().run(handle, *given))

    def track(self, operation: asyncio.Task[Any], name: str) -> None:
        """List an operation until it ends, as the running call's if there is one."""
        now = operation.get_loop().time()
        self._open[operation] = (f"operation {_call.get() or name}", now)
        operation.add_done_callback(self._over)

    def _over(self, operation: asyncio.Task[Any]) -> None:
        del self._open[operation]
        self._stir()

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Yield what is under way, and for how many seconds."""
        now = asyncio.get_running_loop().time()
        for text, began in list(self._open.values()):
            yield text, now - began

    @contextlib.contextmanager
    def _listed(self, method: Method[Any, Any], request: Any) -> Iterator[None]:
        """List a call for the length of the block; log how it ended, for debugging."""
        container = getattr(request, "id", "")
        exec_id = getattr(request, "exec_id", "")
        name = f"{method.name} {exec_id}" if exec_id else method.name
        text = f"{name} of {container}" if container else name
        # Each call has a context of its own.
        log.about.set(container)
        _call.set(text)
        key = object()
        began = asyncio.get_running_loop().time()
        self._open[key] = (f"call {text}", began)
        outcome = "done"
        try:
            yield
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            del self._open[key]
            self._stir()
            if _log.isEnabledFor(logging.DEBUG):
                took_s = asyncio.get_running_loop().time() - began
                _log.debug("call %s: %s after %.3f s", name, outcome, took_s)
