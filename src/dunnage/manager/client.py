"""One task, and the shim that serves it, over ttrpc.

Owns: the requests.
Must not know: how the shim was started, files of the bundle other than its endpoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from dunnage.api import times
from dunnage.api.services import TASK_V2, TASK_V3, TaskMethods
from dunnage.api.task_v2_pb2 import (
    CloseIORequest,
    ConnectRequest,
    CreateTaskRequest,
    DeleteRequest,
    DeleteResponse,
    ExecProcessRequest,
    KillRequest,
    PauseRequest,
    PidsRequest,
    ResizePtyRequest,
    ResumeRequest,
    ShutdownRequest,
    StartRequest,
    StateRequest,
    StateResponse,
    WaitRequest,
    WaitResponse,
)
from dunnage.bootstrap import endpoint
from dunnage.descriptors import Any as Packed
from dunnage.errors import ConnectionBroken, Unimplemented
from dunnage.ttrpc.aio.client import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dunnage.api.types_pb2 import Mount
    from dunnage.bootstrap.endpoint import Endpoint
    from dunnage.bootstrap.wire import Options
    from dunnage.ttrpc.services import Method, Req, Resp

    from .bundles import Bundle

# containerd's name for the type of a process's JSON; shims do not look at it.
_PROCESS_TYPE: Final = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_NAMESPACE_KEY: Final = "containerd-namespace-ttrpc"
_CONNECT_LIMIT_S: Final = 5.0
# What a shim answers from its memory; the daemon gives State as long.
_QUICK_LIMIT_S: Final = 2.0
# containerd: io.containerd.timeout.shim.shutdown.
_SHUTDOWN_LIMIT_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Stdio:
    """Paths of fifos; an empty one is /dev/null. A terminal has no stderr."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


NULL: Final = Stdio()


class Exit(NamedTuple):
    """What became of a process; no time is known of one that never lived."""

    pid: int
    status: int
    at_ns: int | None


class Task:
    """A connection to the shim of one task.

    An ``exec_id`` names an exec; the empty one is the task's init.
    Every method raises the error that the shim answers, or `ConnectionBroken`.
    Cancelling a method gives up the wait only: the shim carries on.
    """

    def __init__(
        self, bundle: Bundle, namespace: str, client: Client, methods: TaskMethods
    ) -> None:
        self.bundle = bundle
        self._client = client
        self._methods = methods
        self._metadata = {_NAMESPACE_KEY: namespace}

    @classmethod
    async def connect(cls, bundle: Bundle, namespace: str) -> Self:
        """Connect to the shim that a bundle names.

        Raises:
            ConnectionBroken: it names none, or nobody is there any more.
        """
        found = endpoint.read(str(bundle.path))
        if found is None:
            raise ConnectionBroken(f"task {bundle.id} has no shim")
        return await cls.connect_to(found, bundle, namespace)

    @classmethod
    async def connect_to(cls, found: Endpoint, bundle: Bundle, namespace: str) -> Self:
        """Connect to a shim.

        Raises:
            Unimplemented: it does not speak ttrpc.
            ConnectionBroken: nobody is there.
        """
        if found.protocol != endpoint.TTRPC:
            raise Unimplemented(f"a shim that speaks {found.protocol}")
        methods = TASK_V2 if found.version <= 2 else TASK_V3
        client = await Client.connect(found.address, timeout_s=_CONNECT_LIMIT_S)
        return cls(bundle, namespace, client, methods)

    async def create(
        self, rootfs: Sequence[Mount], stdio: Stdio, options: Options | None
    ) -> int:
        """Create the task; return init's pid."""
        packed = options and Packed(type_url=options.type_url, value=options.value)
        request = CreateTaskRequest(
            id=self.bundle.id,
            bundle=str(self.bundle.path),
            rootfs=rootfs,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
            options=packed,
        )
        return (await self._call(self._methods.create, request)).pid

    async def start(self, exec_id: str = "") -> int:
        """Start init or an exec; return its pid."""
        request = StartRequest(id=self.bundle.id, exec_id=exec_id)
        return (await self._call(self._methods.start, request)).pid

    async def exec(self, exec_id: str, process: dict[str, Any], stdio: Stdio) -> None:
        """Add an exec, which `start` then starts; ``process`` is the OCI spec's."""
        spec = Packed(type_url=_PROCESS_TYPE, value=json.dumps(process).encode())
        request = ExecProcessRequest(
            id=self.bundle.id,
            exec_id=exec_id,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
            spec=spec,
        )
        await self._call(self._methods.exec, request)

    async def wait(self, exec_id: str = "") -> Exit:
        """Wait until a process is gone."""
        request = WaitRequest(id=self.bundle.id, exec_id=exec_id)
        reply = await self._call(self._methods.wait, request)
        return Exit(0, reply.exit_status, _exited_at(reply))

    async def state(self, exec_id: str = "") -> StateResponse:
        """Return the state of a process."""
        request = StateRequest(id=self.bundle.id, exec_id=exec_id)
        return await self._call(self._methods.state, request, _QUICK_LIMIT_S)

    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:  # noqa: A002 - containerd's word
        """Send a signal to init or an exec, or to all processes of the task."""
        request = KillRequest(
            id=self.bundle.id, exec_id=exec_id, signal=signal, all=all
        )
        await self._call(self._methods.kill, request)

    async def pause(self) -> None:
        """Freeze the task."""
        await self._call(self._methods.pause, PauseRequest(id=self.bundle.id))

    async def resume(self) -> None:
        """Thaw the task."""
        await self._call(self._methods.resume, ResumeRequest(id=self.bundle.id))

    async def delete(self, exec_id: str = "") -> Exit:
        """Remove a process that is not running; for init, the task."""
        request = DeleteRequest(id=self.bundle.id, exec_id=exec_id)
        reply = await self._call(self._methods.delete, request)
        return Exit(reply.pid, reply.exit_status, _exited_at(reply))

    async def pids(self) -> list[int]:
        """Return the pids of all processes of the task."""
        reply = await self._call(self._methods.pids, PidsRequest(id=self.bundle.id))
        return [process.pid for process in reply.processes]

    async def close_io(self, exec_id: str = "") -> None:
        """Say that no more stdin will come."""
        request = CloseIORequest(id=self.bundle.id, exec_id=exec_id, stdin=True)
        await self._call(self._methods.close_io, request)

    async def resize(self, width: int, height: int, exec_id: str = "") -> None:
        """Set the size of a process's terminal."""
        request = ResizePtyRequest(
            id=self.bundle.id, exec_id=exec_id, width=width, height=height
        )
        await self._call(self._methods.resize_pty, request)

    async def shim_pid(self) -> int:
        """Return the pid of the shim."""
        request = ConnectRequest(id=self.bundle.id)
        return (
            await self._call(self._methods.connect, request, _QUICK_LIMIT_S)
        ).shim_pid

    async def shutdown(self) -> None:
        """Ask the shim to leave; it does if it has no task any more."""
        request = ShutdownRequest(id=self.bundle.id)
        await self._call(self._methods.shutdown, request, _SHUTDOWN_LIMIT_S)

    def fileno(self) -> int:
        """Return the descriptor of the connection; -1 once it has ended."""
        return self._client.fileno()

    def close(self) -> None:
        """End the connection; the shim stays."""
        self._client.close()

    async def _call(
        self,
        method: Method[Req, Resp],
        request: Req,
        # What runs an OCI runtime takes as long as that does.
        timeout_s: float | None = None,
    ) -> Resp:
        return await self._client.call(
            method, request, timeout_s=timeout_s, metadata=self._metadata
        )


def _exited_at(reply: WaitResponse | DeleteResponse) -> int | None:
    return times.nanoseconds(reply.exited_at) if reply.HasField("exited_at") else None
