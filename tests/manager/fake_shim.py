"""A shim's service in our own process, which says what it is told to."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from dunnage.api import task_v2_pb2 as messages
from dunnage.api.services import TASK_V2
from dunnage.bootstrap import endpoint
from dunnage.descriptors import Empty
from dunnage.ttrpc.aio.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from dunnage.manager.bundles import Bundle


class FakeShim:
    """A shim's service, with the calls that it got."""

    def __init__(
        self, bundle: Bundle, pid: int, *, refusal: Exception | None = None
    ) -> None:
        self.calls: list[str] = []
        self.on_shutdown: Callable[[], None] = lambda: None
        self._path = bundle.path / "sock"
        path = str(self._path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self._server = Server()
        self._pid = pid
        self._refusal = refusal
        for method in (
            *(TASK_V2.kill, TASK_V2.wait, TASK_V2.delete),
            *(TASK_V2.connect, TASK_V2.shutdown),
        ):
            self._server.register(method, getattr(self, f"_{method.name.lower()}"))
        self._server.listen_on(listener)
        endpoint.write(str(bundle.path), endpoint.Endpoint(f"unix://{path}"))

    def withdraw(self) -> None:
        """Listen no more."""
        self._path.unlink()
        self._server.stop_listening()

    async def close(self) -> None:
        """Stop serving."""
        await self._server.close()

    async def _kill(self, request: messages.KillRequest, _: object) -> Empty:
        self.calls.append(f"kill {request.signal}")
        return Empty()

    async def _wait(self, *_: object) -> messages.WaitResponse:
        return messages.WaitResponse(exit_status=137)

    async def _delete(self, *_: object) -> messages.DeleteResponse:
        self.calls.append("delete")
        if self._refusal is not None:
            raise self._refusal
        return messages.DeleteResponse(pid=7, exit_status=3)

    async def _connect(self, *_: object) -> messages.ConnectResponse:
        return messages.ConnectResponse(shim_pid=self._pid)

    async def _shutdown(self, *_: object) -> Empty:
        self.calls.append("shutdown")
        self.on_shutdown()
        return Empty()
