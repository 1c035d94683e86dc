"""What is asked of a shim; that shims understand it is shown in tests/cli."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from dunnage.api import task_v2_pb2 as messages
from dunnage.api.process_pb2 import ProcessInfo
from dunnage.api.services import TASK_V2, TASK_V3
from dunnage.bootstrap import endpoint
from dunnage.bootstrap.endpoint import Endpoint
from dunnage.bootstrap.wire import Options
from dunnage.descriptors import Timestamp
from dunnage.errors import ConnectionBroken, NotFound, Unimplemented
from dunnage.manager import bundles
from dunnage.manager.client import Exit, Stdio, Task
from dunnage.ttrpc.aio.server import Context, Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from dunnage.manager.bundles import Bundle
    from dunnage.manager.places import Places

GO_ZERO = Timestamp(seconds=-62135596800)
STDIO = Stdio("in", "out", "err")

# What each method of a task answers here, if not an empty message.
REPLIES: dict[str, Any] = {
    "Create": messages.CreateTaskResponse(pid=7),
    "Start": messages.StartResponse(pid=8),
    "Wait": messages.WaitResponse(exit_status=3, exited_at=Timestamp(seconds=1)),
    "Delete": messages.DeleteResponse(pid=8, exit_status=4, exited_at=GO_ZERO),
    "Connect": messages.ConnectResponse(shim_pid=9),
    "Pids": messages.PidsResponse(processes=[ProcessInfo(pid=7), ProcessInfo(pid=8)]),
}


class Shim:
    """Answers every call and keeps it."""

    def __init__(self, bundle: Bundle, version: int) -> None:
        self.calls: list[tuple[str, Any, Context]] = []
        path = str(bundle.path / "sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.server = Server()
        for method in TASK_V2 if version == 2 else TASK_V3:
            self.server.register(method, self._handler(method.name, method.response))
        self.server.listen_on(listener)
        endpoint.write(str(bundle.path), Endpoint(f"unix://{path}", version))

    def _handler(self, name: str, empty: Callable[[], Any]) -> Callable[..., Any]:
        async def handle(request: Any, context: Context) -> Any:
            self.calls.append((name, request, context))
            return REPLIES.get(name, empty())

        return handle


@pytest.fixture
def bundle(places: Places) -> Bundle:
    """A bundle with a short path."""
    return bundles.create(places, "c", b"{}")


@pytest.mark.parametrize("version", [2, 3])
def test_calls(places: Places, bundle: Bundle, version: int) -> None:
    """Each method sends what it was given, for its task, in its namespace."""

    async def scenario() -> None:
        shim = Shim(bundle, version)
        task = await Task.connect(bundle, places.namespace)
        options = Options("u", b"v")
        assert await task.create([], STDIO, options) == 7
        assert await task.start("e") == 8
        await task.exec("e", {"args": ["a"]}, STDIO)
        assert await task.wait("e") == Exit(0, 3, 1_000_000_000)
        assert (await task.state("e")).pid == 0
        await task.kill(9, "e", all=True)
        assert await task.delete("e") == Exit(8, 4, None)
        assert await task.pids() == [7, 8]
        await task.close_io("e")
        assert await task.shim_pid() == 9
        await task.shutdown()
        task.close()

        assert {request.id for _, request, _ in shim.calls} == {"c"}
        asked = {name: request for name, request, _ in shim.calls}
        assert len(asked) == 11
        for name in ("Start", "Exec", "Wait", "State", "Kill", "Delete", "CloseIO"):
            assert asked[name].exec_id == "e"
        for name in ("Create", "Exec"):
            request = asked[name]
            assert (request.stdin, request.stdout, request.stderr) == (
                "in",
                "out",
                "err",
            )
        assert asked["Create"].bundle == str(bundle.path)
        assert asked["Create"].options.type_url == "u"
        assert json.loads(asked["Exec"].spec.value) == {"args": ["a"]}
        assert (asked["Kill"].signal, asked["Kill"].all) == (9, True)
        assert asked["CloseIO"].stdin
        for _, _, context in shim.calls:
            assert context.metadata == {"containerd-namespace-ttrpc": "test"}
        await shim.server.close()

    asyncio.run(scenario())


def test_error(places: Places, bundle: Bundle) -> None:
    """What a shim refuses is raised as the class of its code."""

    async def refuse(*_: object) -> messages.StartResponse:
        raise NotFound("container not created")

    async def scenario() -> None:
        shim = Shim(bundle, 2)
        await shim.server.close()
        (bundle.path / "sock").unlink()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(bundle.path / "sock"))
        listener.listen()
        server = Server()
        server.register(TASK_V2.start, refuse)
        server.listen_on(listener)
        task = await Task.connect(bundle, places.namespace)
        with pytest.raises(NotFound, match="container not created"):
            await task.start()
        task.close()
        await server.close()

    asyncio.run(scenario())


def test_nobody_there(places: Places, bundle: Bundle) -> None:
    """A bundle without a shim, or whose shim is gone, cannot be connected to."""
    with pytest.raises(ConnectionBroken, match="no shim"):
        asyncio.run(Task.connect(bundle, places.namespace))
    endpoint.write(str(bundle.path), Endpoint("unix:///nope"))
    with pytest.raises(ConnectionBroken, match="/nope"):
        asyncio.run(Task.connect(bundle, places.namespace))


def test_grpc(places: Places, bundle: Bundle) -> None:
    """A shim that speaks gRPC is refused before anything is tried."""
    found = Endpoint("unix:///nope", 3, "grpc")
    with pytest.raises(Unimplemented, match="grpc"):
        asyncio.run(Task.connect_to(found, bundle, places.namespace))
