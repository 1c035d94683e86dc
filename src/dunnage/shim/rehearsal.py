"""Whole lives of containers, led in this process before it forks its shims.

What a shim does for the first time changes memory for good: caches and pools are
filled, modules and messages are looked up.
Done before the fork it is shared by all shims; and what a shim then does again leaves
memory as it was.

Nothing real happens: no runtime runs, nothing is mounted.
The processes of containers are forks of this one that do nothing.

Invariant (rehearsal-leaves-nothing): afterwards there is no file, descriptor, child,
task, signal handler or logging handler more than before, and no id, pid or environment
of a rehearsal is seen by a shim.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any, Final

from dunnage.api import task_v2_pb2 as pb
from dunnage.api import typeurl
from dunnage.api.forward_pb2 import ForwardRequest
from dunnage.api.runc_options_pb2 import Options as RuncOptions
from dunnage.api.runtime_options_pb2 import Options as RuntimeOptions
from dunnage.api.services import EVENTS, TASK_V2, TASK_V3
from dunnage.bootstrap import address, bundle, flags, wire
from dunnage.bootstrap.flags import Flags
from dunnage.descriptors import Empty
from dunnage.errors import DunnageError
from dunnage.host import loop
from dunnage.oci import Spec
from dunnage.ttrpc.aio.client import Client
from dunnage.ttrpc.aio.server import Context, Server

from . import log, socket_file
from .daemon import Daemon
from .stage import Stage

SHIMS: Final = 12
"""How many shims are played: each dialect, with and without output, a few times."""
ID: Final = "one"
_NAMESPACE: Final = "rehearsal"
_LIMIT_S: Final = 5.0
_RUNTIME: Final = "rehearsed"

_SPEC: Final = {
    "ociVersion": "1.0.2",
    "annotations": {"io.kubernetes.cri.container-type": "container"},
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
    "root": {"path": "rootfs"},
    "linux": {"cgroupsPath": "/rehearsal", "namespaces": [{"type": "pid"}]},
}


def rehearse(directory: str, shims: int = SHIMS) -> None:
    """Lead lives, with files in a directory of their own within ``directory``.

    A failure is logged, and leaves nothing behind either: the shims that follow are
    only a little larger.
    """
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    cwd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    place, held = "", -1
    try:
        place = tempfile.mkdtemp(prefix="rehearsal-", dir=directory)
        held = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        short = f"/proc/self/fd/{held}"  # a socket's name has its limit
        with open(os.path.join(place, "log"), "wb") as file:
            handler = log.FifoHandler(file.fileno())
            handler.setFormatter(log.LogrusFormatter({"namespace": _NAMESPACE}))
            root.handlers[:] = [handler]
            root.setLevel(logging.INFO)
            for number in range(shims):
                _play_shim(f"{short}/bundle", number)
            root.handlers[:] = handlers
    except Exception:
        root.handlers[:] = handlers
        logging.getLogger(__name__).warning("the rehearsal failed", exc_info=True)
    finally:
        root.setLevel(level)
        os.fchdir(cwd)
        os.close(cwd)
        if held >= 0:
            os.close(held)
        if place:
            shutil.rmtree(place, ignore_errors=True)


def _play_shim(place: str, number: int) -> None:
    """Start a shim as `start` does, and serve until it leaves."""
    given, told, listener = begin(place)
    loop.run(_Play(place, given, told, listener, number).run())
    shutil.rmtree(place)


def begin(place: str) -> tuple[Flags, wire.Start, socket.socket]:
    """Do what `start` does, with all files in a directory that is made.

    Returns:
        What a `Rehearsed` takes; the socket is ``s`` in the directory.
    """
    os.mkdir(place, 0o700)
    os.chdir(place)
    bundle.write(place, bundle.CONFIG, json.dumps(_SPEC))
    environment = {"TTRPC_ADDRESS": f"{place}/d.sock.ttrpc"}
    argv = ["-namespace", _NAMESPACE, "-address", f"{place}/d.sock", "-id", ID]
    given = flags.parse([*argv, "start"])
    told = wire.parse_start(_stdin(), given, environment)
    annotations = dict(Spec.parse(bundle.read_config(".")).annotations)
    group = address.group_id(annotations, given.id)
    where = address.socket_address(
        told.grpc_address, given.namespace, group, directory=place
    )
    bundle.write(place, bundle.ADDRESS, where)
    wire.render_answer(told.dialect, where)
    listener = socket_file.bind(f"{place}/s")
    assert listener is not None
    return given, told, listener


def _stdin() -> bytes:
    packed = options()
    return wire.render_start(
        wire.Start(options=wire.Options(packed.type_url, packed.value)),
        id=ID,
        namespace=_NAMESPACE,
    )


def options() -> Any:
    """Return those of a runtime that is played, packed."""
    return typeurl.pack(RuncOptions(binary_name=_RUNTIME))


def _options_in_toml() -> Any:
    """Return the same as Kubernetes and Docker would say it."""
    body = f'BinaryName = "{_RUNTIME}"\nIoUid = 0\nSystemdCgroup = false\n'
    return typeurl.pack(RuntimeOptions(config_body=body.encode()))


def process() -> dict[str, Any]:
    """Return the spec of a process more, packed."""
    return {"type_url": "process", "value": json.dumps(_SPEC["process"]).encode()}


class Rehearsed(Daemon):
    """A shim as it is, but for the runtimes."""

    def __init__(self, given: Flags, told: wire.Start, listener: socket.socket) -> None:
        super().__init__(given, told, listener)
        self._children = Stage()

    async def close(self) -> None:
        """Let go of what a shim that did not leave by itself still holds."""
        self._publisher.close()
        await self._server.close()
        self._listener.close()


class _Play:
    """A shim, and a daemon that drives it and hears its events, in one loop."""

    def __init__(
        self,
        place: str,
        given: Flags,
        told: wire.Start,
        listener: socket.socket,
        number: int,
    ) -> None:
        self._number = number
        self._place = place
        self._flags = given
        self._told = told
        self._listener = listener

    async def run(self) -> None:
        hearing = Server()
        hearing.register(EVENTS.forward, self._hear)
        events = socket_file.bind(self._told.ttrpc_address)
        assert events is not None
        hearing.listen_on(events)
        daemon = Rehearsed(self._flags, self._told, self._listener)
        serving = asyncio.ensure_future(daemon.run())
        try:
            async with asyncio.timeout(_LIMIT_S):
                client = await Client.connect(f"{self._place}/s", timeout_s=_LIMIT_S)
                try:
                    with contextlib.ExitStack() as reading:
                        await self._life(client, self._flags.id, reading)
                    await client.call(TASK_V2.shutdown, pb.ShutdownRequest())
                    await serving
                finally:
                    client.close()
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
            await daemon.close()
            await hearing.close()

    @staticmethod
    async def _hear(_request: ForwardRequest, _: Context) -> Empty:
        return Empty()

    async def _life(
        self, client: Client, id_: str, reading: contextlib.ExitStack
    ) -> None:
        """Lead the life of one container."""
        directory = self._place
        # Daemons speak one or the other; most containers' output is read.
        methods = (TASK_V2, TASK_V3)[self._number % 2]
        out, err = (f"{directory}/{name}" for name in ("out", "err"))
        for fifo in (out, err):
            os.mkfifo(fifo)
            _read(fifo, reading)

        async def call(name: str, **fields: Any) -> Any:
            method = getattr(methods, name)
            request = method.request(id=id_, **fields)
            return await client.call(method, request, timeout_s=_LIMIT_S)

        await call("connect")
        # Two mounts are made in a process that is forked for them, and so is played.
        mount = {"type": "bind", "source": directory, "options": ["rbind", "rw"]}
        rootfs = [mount, mount]
        streams = {"stdout": out, "stderr": err} if self._number % 3 else {}
        fields = {"bundle": directory, "rootfs": rootfs, **streams}
        packed = (options, _options_in_toml)[self._number // 2 % 2]()
        await call("create", options=packed, **fields)
        waiting = _begin(call("wait"), reading)
        await call("start")
        await call("state")
        await call("pids")
        with contextlib.suppress(DunnageError):
            await call("stats")
        with contextlib.suppress(DunnageError):
            await call("create", bundle=directory)
        with contextlib.suppress(DunnageError):
            await call("state", exec_id="none")
        await self._exec(call, "e", reading)
        await call("kill", signal=int(signal.SIGKILL))
        await waiting
        await call("delete")

    @staticmethod
    async def _exec(
        call: Callable[..., Coroutine[Any, Any, Any]],
        exec_id: str,
        until: contextlib.ExitStack,
    ) -> None:
        """Lead the life of one more process."""
        await call("exec", exec_id=exec_id, spec=process())
        await call("start", exec_id=exec_id)
        await call("state", exec_id=exec_id)
        ending = _begin(call("wait", exec_id=exec_id), until)
        await call("kill", exec_id=exec_id, signal=int(signal.SIGTERM))
        await ending
        await call("delete", exec_id=exec_id)


def _begin(
    call: Coroutine[Any, Any, Any], until: contextlib.ExitStack
) -> asyncio.Task[Any]:
    """Begin a call, which is cancelled if it has not ended ``until`` is closed."""
    task = asyncio.ensure_future(call)
    until.callback(task.cancel)
    return task


def _read(fifo: str, until: contextlib.ExitStack) -> None:
    """Read a fifo ``until`` is closed."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    running = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(fd, 4096):
            running.remove_reader(fd)

    until.callback(os.close, fd)
    until.callback(running.remove_reader, fd)
    running.add_reader(fd, read)
