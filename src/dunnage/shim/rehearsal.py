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
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from dunnage.host import loop
from dunnage.host.procs import Child, Children, Claim, Exited
from dunnage.oci import Spec
from dunnage.ttrpc.aio.client import Client
from dunnage.ttrpc.aio.server import Context, Server

from . import log, socket_file, start
from .daemon import Daemon

SHIMS: Final = 12
"""How many shims are played: the interpreter looks at code that has run eight times."""
_NAMESPACE: Final = "rehearsal"
_LIMIT_S: Final = 5.0
_RUNTIME: Final = "rehearsed"
_NO_PID: Final = 1 << 30

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
                _play_shim(os.path.join(place, "bundle"), number)
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


def _play_shim(place: str, number: int) -> None:
    """Start a shim as `start` does, and serve until it leaves."""
    os.mkdir(place, 0o700)
    os.chdir(place)
    bundle.write(place, bundle.CONFIG, json.dumps(_SPEC))
    environment = {"TTRPC_ADDRESS": f"{place}/d.sock.ttrpc"}
    argv = ["-namespace", _NAMESPACE, "-address", f"{place}/d.sock", "-id", "one"]
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
    loop.run(_Play(place, given, told, listener, number).run())
    shutil.rmtree(place)


def _stdin() -> bytes:
    packed = _options()
    return wire.render_start(
        wire.Start(options=wire.Options(packed.type_url, packed.value)),
        id="one",
        namespace=_NAMESPACE,
    )


def _options() -> Any:
    return typeurl.pack(RuncOptions(binary_name=_RUNTIME))


class _Stage(Children):
    """Children that are played: no process is made.

    A runtime's run is over as soon as it began.
    Played pids are beyond what Linux gives to processes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last = _NO_PID

    @contextlib.contextmanager
    def expecting(self, pid_file: str) -> Iterator[Claim]:
        with super().expecting(pid_file):
            yield _Expected(pid_file, self)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        fds: tuple[int, int, int],
        env: Mapping[str, str] | None = None,  # noqa: ARG002  # a real one's
        cwd: str | None = None,  # noqa: ARG002  # likewise
    ) -> Child:
        return self._ended(self._act(list(argv), fds))

    async def call(self, body: Callable[[], None]) -> None:  # noqa: ARG002  # not run
        await self._ended(0).wait()

    def enter(self, pid: int) -> Child:
        """Have a container's process come on."""
        actor = self._known[pid] = _Actor(pid, self)
        return actor

    def end(self, child: Child, status: int) -> None:
        """Have a child be reaped, soon."""
        ended = Exited(status, time.time_ns())
        asyncio.get_running_loop().call_soon(self._reaped, child.pid, ended)

    def _ended(self, status: int) -> Child:
        child = self.adopt(self._next())
        self.end(child, status)
        return child

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _act(self, argv: list[str], fds: tuple[int, int, int]) -> int:
        """Do as the runtime does; return its exit status."""
        if "--pid-file" in argv:
            path = argv[argv.index("--pid-file") + 1]
            with open(path, "w", encoding="ascii") as file:
                file.write(str(self._next()))
            os.write(fds[1], b"said\n")
        elif "kill" in argv:
            if (init := self._living()) is None:
                os.write(fds[2], b"container not running")
                return 1
            init.kill(int(argv[-1]))
        elif "delete" in argv:
            if init := self._living():
                init.kill(signal.SIGKILL)
        elif "ps" in argv:
            os.write(fds[1], b"[1, 2]")
        return 0

    def _living(self) -> Child | None:
        actors = [c for c in self._known.values() if isinstance(c, _Actor)]
        return actors[0] if actors else None


class _Actor(Child):
    """A container's process."""

    def __init__(self, pid: int, stage: _Stage) -> None:
        super().__init__(pid)
        self._stage = stage

    def kill(self, signum: int) -> None:
        if self.exited is None:
            self._stage.end(self, 128 + signum)


class _Expected(Claim):
    """The claim on a container's process that is played."""

    def __init__(self, pid_file: str, stage: _Stage) -> None:
        super().__init__(pid_file, stage)
        self._path = pid_file
        self._stage = stage

    def child(self) -> Child:
        with open(self._path, "rb") as file:
            return self._stage.enter(int(file.read()))


class _Rehearsed(Daemon):
    """A shim as it is, but for the runtimes."""

    def __init__(self, flags: Flags, told: wire.Start, listener: socket.socket) -> None:
        super().__init__(flags, told, listener)
        self._children = _Stage()

    async def close(self) -> None:
        """Let go of what a shim that did not leave by itself still holds."""
        self._publisher.close()
        await self._server.close()
        self._listener.close()


class _Play:
    """A shim, and a daemon that drives it and hears its events, in one loop."""

    def __init__(self, place: str, flags: Flags, told: wire.Start, listener: socket.socket, number: int) -> None:
        self._number = number
        self._place = place
        self._flags = flags
        self._told = told
        self._listener = listener
        self._heard = 0

    async def run(self) -> None:
        hearing = Server()
        hearing.register(EVENTS.forward, self._hear)
        events = socket_file.bind(self._told.ttrpc_address)
        assert events is not None
        hearing.listen_on(events)
        daemon = _Rehearsed(self._flags, self._told, self._listener)
        serving = asyncio.ensure_future(daemon.run())
        try:
            async with asyncio.timeout(_LIMIT_S):
                client = await Client.connect(f"{self._place}/s", timeout_s=_LIMIT_S)
                try:
                    await self._life(client, self._flags.id)
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

    async def _hear(self, request: ForwardRequest, _: Context) -> Empty:
        self._heard += 1
        return Empty()

    async def _life(self, client: Client, id_: str) -> None:
        """Lead the life of one container."""
        directory = self._place
        # Daemons speak one or the other; most containers' output is read.
        methods = (TASK_V2, TASK_V3)[self._number % 2]
        out, err = (f"{directory}/{name}" for name in ("out", "err"))
        reading = contextlib.ExitStack()
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
        await call("create", bundle=directory, rootfs=rootfs, options=_options(), **streams)
        waiting = asyncio.ensure_future(call("wait"))
        await call("start")
        await call("state")
        await call("pids")
        with contextlib.suppress(DunnageError):
            await call("create", bundle=directory)
        with contextlib.suppress(DunnageError):
            await call("state", exec_id="none")
        for exec_id in ("e",):
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
        reading.close()


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
