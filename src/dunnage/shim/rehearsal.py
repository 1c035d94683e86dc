"""Whole lives of containers, led in this process before it forks its shims.

What a shim does for the first time changes memory for good: code is specialised, caches
and pools are filled.
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
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dunnage.api import task_v2_pb2 as pb
from dunnage.api import typeurl
from dunnage.api.forward_pb2 import ForwardRequest
from dunnage.api.runc_options_pb2 import Options as RuncOptions
from dunnage.api.services import EVENTS, TASK_V2, TASK_V3, TaskMethods
from dunnage.bootstrap import address, bundle, wire
from dunnage.bootstrap.flags import Flags
from dunnage.descriptors import Empty
from dunnage.errors import DunnageError
from dunnage.host.procs import Child, Children, Exited
from dunnage.host.procs.spawn import fork_child
from dunnage.oci import Spec
from dunnage.ttrpc.aio.client import Client
from dunnage.ttrpc.aio.server import Context, Server

from . import log, socket_file, start
from .daemon import Daemon

SHIMS: Final = 10
"""How many shims are played: the interpreter looks at code that has run eight times."""
_CONTAINERS: Final = 2
_EXECS: Final = 2
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
    place = ""
    try:
        place = tempfile.mkdtemp(prefix="rehearsal-", dir=directory)
        with open(os.path.join(place, "log"), "wb") as file:
            handler = log.FifoHandler(file.fileno())
            handler.setFormatter(log.LogrusFormatter({"namespace": _NAMESPACE}))
            root.handlers[:] = [handler]
            root.setLevel(logging.INFO)
            for number in range(shims):
                _play_shim(os.path.join(place, str(number)))
            root.handlers[:] = handlers
    except Exception:
        root.handlers[:] = handlers
        logging.getLogger(__name__).warning("the rehearsal failed", exc_info=True)
    finally:
        root.setLevel(level)
        os.fchdir(cwd)
        os.close(cwd)
        if place:
            shutil.rmtree(place, ignore_errors=True)


def _play_shim(place: str) -> None:
    """Start a shim as `start` does, and serve until it leaves."""
    os.mkdir(place, 0o700)
    os.chdir(place)
    bundle.write(place, bundle.CONFIG, json.dumps(_SPEC))
    environment = {"TTRPC_ADDRESS": f"{place}/d.sock.ttrpc"}
    argv = ["-namespace", _NAMESPACE, "-address", f"{place}/d.sock", "-id", "0"]
    from dunnage.bootstrap import flags

    given = flags.parse([*argv, "start"])
    told = wire.parse_start(_stdin(), given, environment)
    annotations = dict(Spec.parse(bundle.read_config(".")).annotations)
    group = address.group_id(annotations, given.id)
    where = address.socket_address(told.grpc_address, given.namespace, group, directory=place)
    bundle.write(place, bundle.ADDRESS, where)
    wire.render_answer(told.dialect, where)
    listener = socket_file.bind(f"{place}/s")
    assert listener is not None
    asyncio.run(_Play(place, given, told, listener).run())


def _stdin() -> bytes:
    packed = _options()
    return wire.render_start(
        wire.Start(options=wire.Options(packed.type_url, packed.value)),
        id="0",
        namespace=_NAMESPACE,
    )


def _options() -> Any:
    return typeurl.pack(RuncOptions(binary_name=_RUNTIME))


class _Stage(Children):
    """Children of which the runtimes are played.

    A runtime's run is over as soon as it began; what it would leave, a container's
    process, is a fork that waits for its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._inits: dict[str, int] = {}
        self._last = -1

    def spawn(
        self,
        argv: Sequence[str],
        *,
        fds: tuple[int, int, int],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Child:
        status = self._act(list(argv), fds)
        # No process has a negative pid, so nobody's status is taken for its.
        self._last -= 1
        child = self.adopt(self._last)
        ended = Exited(status, time.time_ns())
        asyncio.get_running_loop().call_soon(self._reaped, child.pid, ended)
        return child

    async def call(self, body: Callable[[], None]) -> None:
        await super().call(lambda: None)

    def _act(self, argv: list[str], fds: tuple[int, int, int]) -> int:
        id_ = argv[-1]
        if "--pid-file" in argv:
            pid = fork_child(_wait_for_the_end)
            with open(argv[argv.index("--pid-file") + 1], "w", encoding="ascii") as file:
                file.write(str(pid))
            if "create" in argv:
                self._inits[id_] = pid
        elif "kill" in argv:
            if argv[-2] not in self._inits:
                os.write(fds[2], b"container not running")
                return 1
            os.kill(self._inits.pop(argv[-2]), int(argv[-1]))
        elif "delete" in argv:
            if pid := self._inits.pop(id_, 0):
                os.kill(pid, signal.SIGKILL)
        elif "ps" in argv:
            os.write(fds[1], json.dumps([self._inits[id_]]).encode())
        return 0


def _wait_for_the_end() -> None:
    while True:
        signal.pause()


class _Rehearsed(Daemon):
    """A shim as it is, but for the runtimes."""

    def __init__(self, flags: Flags, told: wire.Start, listener: socket.socket) -> None:
        super().__init__(flags, told, listener)
        self._children = _Stage()


class _Play:
    """A shim, and a daemon that drives it and hears its events, in one loop."""

    def __init__(self, place: str, flags: Flags, told: wire.Start, listener: socket.socket) -> None:
        self._place = place
        self._flags = flags
        self._told = told
        self._listener = listener
        self._heard = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        hearing = Server()
        hearing.register(EVENTS.forward, self._hear)
        events = socket_file.bind(self._told.ttrpc_address)
        assert events is not None
        hearing.listen_on(events)
        daemon = _Rehearsed(self._flags, self._told, self._listener)
        serving = loop.create_task(daemon.run())
        try:
            async with asyncio.timeout(_LIMIT_S):
                client = await Client.connect(f"{self._place}/s", timeout_s=_LIMIT_S)
                for methods in (TASK_V2, TASK_V3):
                    for number in range(_CONTAINERS):
                        await self._life(client, methods, str(number))
                await client.call(TASK_V2.shutdown, pb.ShutdownRequest(id="0"))
                await serving
                client.close()
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
            await hearing.close()

    async def _hear(self, request: ForwardRequest, _: Context) -> Empty:
        self._heard += 1
        return Empty()

    async def _life(self, client: Client, methods: TaskMethods, id_: str) -> None:
        """Lead the life of one container."""
        directory = f"{self._place}/{methods.create.service}-{id_}"
        os.mkdir(directory)
        bundle.write(directory, bundle.CONFIG, json.dumps(_SPEC))
        out, err = (f"{directory}/{name}" for name in ("out", "err"))
        for fifo in (out, err):
            os.mkfifo(fifo)

        async def call(name: str, **fields: Any) -> Any:
            method = getattr(methods, name)
            request = method.request(id=id_, **fields)
            return await client.call(method, request, timeout_s=_LIMIT_S)

        await call("connect")
        rootfs = [{"type": "bind", "source": directory, "options": ["rbind", "rw"]}]
        streams = {"stdout": out, "stderr": err} if id_ == "0" else {}
        await call("create", bundle=directory, rootfs=rootfs, options=_options(), **streams)
        waiting = asyncio.ensure_future(call("wait"))
        await call("start")
        await call("state")
        await call("pids")
        with contextlib.suppress(DunnageError):
            await call("create", bundle=directory)
        with contextlib.suppress(DunnageError):
            await call("state", exec_id="none")
        for number in range(_EXECS):
            exec_id = f"e{number}"
            value = json.dumps(_SPEC["process"]).encode()
            spec = {"type_url": "process", "value": value}
            await call("exec", exec_id=exec_id, spec=spec)
            await call("start", exec_id=exec_id)
            await call("state", exec_id=exec_id)
            ending = asyncio.ensure_future(call("wait", exec_id=exec_id))
            await call("kill", exec_id=exec_id, signal=int(signal.SIGTERM))
            await ending
            await call("delete", exec_id=exec_id)
        await call("kill", signal=int(signal.SIGKILL))
        await waiting
        await call("delete")
