"""Drives a shim binary from outside, as a daemon would: any shim, ours or another's.

Everything is private to one `Shim`: its directory, its namespace, its event socket.
Of the manager half it shares nothing but the client and the dialects.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, Self

from tests.machine import cgroups_named, pids_with

from dunnage.api import events_pb2, forward_pb2, typeurl
from dunnage.api import task_v2_pb2 as pb
from dunnage.api.runc_options_pb2 import Options
from dunnage.api.services import EVENTS, TASK_V2, TaskMethods
from dunnage.bootstrap import address, warm, wire
from dunnage.bootstrap.flags import Flags
from dunnage.descriptors import Empty
from dunnage.ttrpc.aio.client import Client
from dunnage.ttrpc.aio.server import Context, Server

ROOT = Path(__file__).parents[2]
OURS = Path(sys.executable).parent / "containerd-shim-dunnage-v2"
STOCK = (
    Path(os.environ.get("DUNNAGE_PEERS", ROOT / ".peers"))
    / "containerd-1.6/usr/bin/containerd-shim-runc-v2"
)
LIMIT_S = 20.0

P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def spec(args: list[str], **changes: Any) -> dict[str, Any]:
    """Return a small OCI spec; ``changes`` replace its top-level keys."""
    name = secrets.token_hex(4)
    return {
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755"],
            },
        ],
        "linux": {
            "cgroupsPath": f"/dunnage-test-{name}",
            "namespaces": [
                {"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")
            ],
        },
    } | changes


def process(args: list[str], **changes: Any) -> dict[str, Any]:
    """Return an OCI process."""
    return {
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
    } | changes


def make_rootfs(directory: Path) -> Path:
    """Make a root filesystem of busybox."""
    for name in ("bin", "proc", "dev", "etc", "tmp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing: apt-get install busybox-static"
    shutil.copy(busybox, directory / "bin/busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, check=True)
    for applet in listed.stdout.decode().split():
        if applet != "busybox":
            (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/plain").write_text("no program\n")
    return directory


@dataclass
class Shim:
    """One namespace of containers under one shim binary; use as an async context."""

    directory: Path
    binary: Path = OURS
    runtime: str = "runc"
    params: bool = False
    """Speak the dialect of containerd 2.3 instead of the legacy one."""
    environment: dict[str, str] = field(default_factory=dict)
    start_prefix: list[str] = field(default_factory=list)
    """A command that runs the command given to it, for every start by `up`."""
    namespace: str = field(default_factory=lambda: f"dt-{secrets.token_hex(4)}")
    events: list[forward_pb2.Envelope] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self.address = str(self.directory / "d.sock")
        self.bundles = self.directory / "b" / self.namespace
        self.bundles.mkdir(parents=True)
        self.rootfs = make_rootfs(self.directory / "rootfs")
        self._server = Server()
        self._server.register(EVENTS.forward, self._take)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.address}.ttrpc")
        listener.listen()
        self._server.listen_on(listener)
        self._clients: dict[str, Client] = {}
        self._logs: dict[str, int] = {}
        self._sockets: set[str] = set()
        self._changed = asyncio.Event()
        self.takes_events = asyncio.Event()
        self.takes_events.set()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()
        while pids := pids_with(self.namespace):  # a start may be under way
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                await ended(pid)
        for bundle in self.bundles.iterdir():
            with contextlib.suppress(Exception):
                self.delete_action(bundle.name)
            for group in cgroups_named(cgroup_of(bundle) or "none"):
                with contextlib.suppress(OSError):
                    group.rmdir()
            where = address.socket_address(self.address, self.namespace, bundle.name)
            Path(address.unix_name(where)).unlink(missing_ok=True)
        await self._server.close()
        for fd in self._logs.values():
            os.close(fd)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if str(self.directory) in line.split()[4]:
                subprocess.run(["umount", line.split()[4]], check=False)
        shutil.rmtree(f"/run/containerd/runc/{self.namespace}", ignore_errors=True)

    async def _take(self, request: forward_pb2.ForwardRequest, _: Context) -> Empty:
        await self.takes_events.wait()
        self.events.append(request.envelope)
        self._changed.set()
        return Empty()

    # -- bundles and actions

    def bundle(self, id_: str, config: Mapping[str, Any] | str) -> Path:
        """Make a bundle with its log fifo, and the config.json given."""
        bundle = self.bundles / id_
        (bundle / "rootfs").mkdir(parents=True)
        text = config if isinstance(config, str) else json.dumps(config)
        (bundle / "config.json").write_text(text)
        os.mkfifo(bundle / "log", 0o700)
        self._logs[id_] = os.open(bundle / "log", os.O_RDWR | os.O_NONBLOCK)
        return bundle

    def log(self, id_: str) -> str:
        """Return what the shim logged into the bundle's fifo since last asked."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._logs[id_], 1 << 16).decode()
        return ""

    def close_log(self, id_: str) -> None:
        """Read a log no more."""
        os.close(self._logs.pop(id_))

    async def close_events(self) -> None:
        """Hear events no more; the path of the socket is free."""
        await self._server.close()
        Path(f"{self.address}.ttrpc").unlink()

    def flags(self, id_: str, action: str, **more: Any) -> list[str]:
        """Return the command line of an action."""
        return [
            str(self.binary),
            *Flags(
                namespace=self.namespace,
                address=self.address,
                id=id_,
                action=action,
                **more,
            ).argv(),
        ]

    @property
    def env(self) -> dict[str, str]:
        """Return the environment that a daemon gives."""
        given = {name: os.environ[name] for name in ("PATH", warm.DIRECTORY_VARIABLE)}
        ttrpc = {"TTRPC_ADDRESS": f"{self.address}.ttrpc"}
        return {**given, **ttrpc, **self.environment}

    def options(self, **more: Any) -> Any:
        """Return the packed options that select the runtime."""
        return typeurl.pack(Options(binary_name=self.runtime, **more))

    def start_stdin(self, id_: str, **more: Any) -> bytes:
        """Return what a daemon writes to the stdin of start."""
        packed = self.options()
        told = wire.Start(
            dialect=wire.Dialect.PARAMS if self.params else wire.Dialect.LEGACY,
            options=wire.Options(packed.type_url, packed.value),
            ttrpc_address=f"{self.address}.ttrpc",
            grpc_address=self.address,
            **more,
        )
        return wire.render_start(told, id=id_, namespace=self.namespace)

    def start_action(
        self,
        id_: str,
        stdin: bytes | None = None,
        *,
        prefix: Sequence[str] = (),
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        debug: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``start`` to the end of its output; streams are told apart.

        ``prefix`` is a command that runs the command given to it.
        """
        return subprocess.run(
            [*prefix, *self.flags(id_, "start", debug=debug)],
            input=self.start_stdin(id_) if stdin is None else stdin,
            capture_output=True,
            cwd=cwd or self.bundles / id_,
            env=self.env,
            timeout=LIMIT_S,
            check=False,
            pass_fds=pass_fds,
        )

    def delete_action(self, id_: str) -> subprocess.CompletedProcess[bytes]:
        """Run ``delete``."""
        return subprocess.run(
            self.flags(id_, "delete", bundle=str(self.bundles / id_)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.bundles / id_,
            env=self.env,
            timeout=LIMIT_S,
            check=False,
        )

    # -- the client

    async def connect(self, id_: str, answer: bytes) -> Client:
        """Connect to where ``start`` said the shim is."""
        where = wire.parse_answer(answer).address
        client = await Client.connect(where, timeout_s=LIMIT_S)
        self._clients[id_] = client
        return client

    async def reconnect(self, id_: str) -> Client:
        """Drop the connection, and make a new one to where the bundle says."""
        self._clients[id_].close()
        return await self.connect(id_, (self.bundles / id_ / "address").read_bytes())

    def client(self, id_: str) -> Client:
        """Return the client of a container."""
        return self._clients[id_]

    async def kill_shim(self, id_: str) -> int:
        """SIGKILL the shim of a container and wait until it is gone; return its pid."""
        pid = (await self.call(id_, "connect")).shim_pid
        os.kill(pid, signal.SIGKILL)
        await ended(pid)
        return int(pid)

    async def up(
        self, id_: str, args: list[str] | None = None, config: Any = None
    ) -> Client:
        """Make a bundle, start the shim, connect: ready for Create."""
        self.bundle(id_, config if config is not None else spec(args or ["true"]))
        done = await asyncio.to_thread(self.start_action, id_, prefix=self.start_prefix)
        assert done.returncode == 0, done
        return await self.connect(id_, done.stdout)

    def member(self, id_: str, of: str, config: Mapping[str, Any]) -> Path:
        """Make the bundle of a container that is to be created in another's shim."""
        self._clients[id_] = self._clients[of]
        return self.bundle(id_, config)

    def drop(self, id_: str) -> None:
        """Forget a member that was deleted; its bundle stays."""
        del self._clients[id_]
        os.close(self._logs.pop(id_))

    def create_request(self, id_: str, **changes: Any) -> pb.CreateTaskRequest:
        """Return a Create whose root is a bind mount of the busybox root."""
        fields = {
            "id": id_,
            "bundle": str(self.bundles / id_),
            "rootfs": [
                {"type": "bind", "source": str(self.rootfs), "options": ["rbind", "rw"]}
            ],
            "options": self.options(),
        } | changes
        return pb.CreateTaskRequest(**fields)

    async def call(
        self, id_: str, name: str, methods: TaskMethods = TASK_V2, **fields: Any
    ) -> Any:
        """Call a method about a container, its ``id`` filled in, by its client."""
        method = getattr(methods, name)
        if name == "create":
            request = self.create_request(id_, **fields)
        else:
            request = method.request(**({"id": id_} | fields))
        return await self._clients[id_].call(method, request, timeout_s=LIMIT_S)

    async def exec(self, id_: str, exec_id: str, args: list[str], **fields: Any) -> Any:
        """Add an exec."""
        value = json.dumps(process(args)).encode()
        return await self.call(
            id_,
            "exec",
            exec_id=exec_id,
            spec={"type_url": "x", "value": value},
            **fields,
        )

    # -- the events

    async def wait_events(self, count: int) -> list[Any]:
        """Wait until ``count`` events have come; return all as messages."""
        async with asyncio.timeout(LIMIT_S):
            while len(self.events) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.said()

    async def wait_for_event(self, kind: str, **fields: Any) -> Any:
        """Wait for an event of a kind with these fields."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                for event in self.said():
                    if type(event).__name__ == kind and all(
                        getattr(event, k) == v for k, v in fields.items()
                    ):
                        return event
                self._changed.clear()
                await self._changed.wait()

    def said(self, container: str = "") -> list[Any]:
        """Return the events so far as messages, of one container or of all."""
        messages = []
        for envelope in self.events:
            kind = getattr(events_pb2, envelope.event.type_url.rpartition(".")[2])
            message = kind.FromString(envelope.event.value)
            if container in {"", message.container_id}:
                messages.append(message)
        return messages

    def kinds(self, container: str = "") -> list[str]:
        """Return the names of the events so far; of execs with their id."""
        names = []
        for message in self.said(container):
            name = type(message).__name__.removeprefix("Task")
            process_id = getattr(message, "id", "")
            is_exec = process_id not in {"", message.container_id}
            names.append(f"{name} {process_id}" if is_exec else name)
        return names

    # -- what is left

    def bury(self, id_: str) -> None:
        """Remove the bundle of a container that was deleted, and its connection."""
        self._clients.pop(id_).close()
        os.close(self._logs.pop(id_))
        where = (self.bundles / id_ / "address").read_text()
        self._sockets.add(address.unix_name(where))
        shutil.rmtree(self.bundles / id_)

    def strays(self) -> list[str]:
        """Name what any container of the namespace left: mounts, sockets, state."""
        mountinfo = Path("/proc/self/mountinfo").read_text().splitlines()
        left = [line for line in mountinfo if str(self.bundles) in line.split()[4]]
        state = Path("/run/containerd/runc") / self.namespace
        with contextlib.suppress(FileNotFoundError):
            left += map(str, state.iterdir())
        left += filter(os.path.exists, self._sockets)
        return left + list(map(str, self.bundles.iterdir()))

    def leftovers(self, id_: str) -> list[str]:
        """Name what a container left behind: processes, mounts, sockets, state."""
        left = [f"process {pid}" for pid in pids_with(self.namespace)]
        bundle = str(self.bundles / id_)
        mountinfo = Path("/proc/self/mountinfo").read_text().splitlines()
        left += [line for line in mountinfo if line.split()[4].startswith(bundle)]
        where = address.socket_address(self.address, self.namespace, id_)
        if Path(address.unix_name(where)).exists():
            left.append(where)
        state = Path("/run/containerd/runc") / self.namespace / id_
        if state.exists():
            left.append(str(state))
        if name := cgroup_of(self.bundles / id_):
            left += [str(path) for path in cgroups_named(name)]
        return left

    async def gone(self, id_: str) -> list[str]:
        """Wait until nothing is left; return what still is at the limit."""
        limit = time.monotonic() + LIMIT_S
        while (left := self.leftovers(id_)) and time.monotonic() < limit:
            await asyncio.sleep(0.02)
        return left


@contextlib.asynccontextmanager
async def fifo_reader(path: Path) -> AsyncIterator[asyncio.Task[bytes]]:
    """Make a fifo and read it to its end."""
    os.mkfifo(path)

    def read() -> bytes:
        return path.read_bytes()

    task = asyncio.create_task(asyncio.to_thread(read))
    try:
        yield task
    finally:
        if not task.done():  # let the reader's open or read come to an end
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            await asyncio.wait([task], timeout=1)


def tiny_disk(directory: Path) -> None:
    """Mount a disk of a few pages on a directory; a `Shim` unmounts its own."""
    argv = ["mount", "-t", "tmpfs", "-o", "size=64k", "tiny", str(directory)]
    subprocess.run(argv, check=True)


def fill(directory: Path, *, free_pages: int = 0) -> Path:
    """Fill a tiny disk up, but for a few pages; return the file that fills it."""
    free = os.statvfs(directory).f_bavail - free_pages
    ballast = directory / "ballast"
    ballast.write_bytes(bytes(4096 * free))
    return ballast


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that nothing announces."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def ended(pid: int) -> None:
    """Wait until a process is gone, or a zombie."""
    await until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with contextlib.suppress(OSError):
        return proc_status(pid)["State"][0] not in "ZX"
    return False


def proc_status(pid: int) -> dict[str, str]:
    """Return what /proc says in a process's ``status``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (s.partition(":") for s in lines)}


def cgroup_of(bundle: Path) -> str:
    """Return the last part of the bundle's cgroup path, empty if there is none."""
    with contextlib.suppress(Exception):  # whatever a test has written there
        file = bundle / "config.json"
        if not file.is_file() or file.stat().st_size > 1 << 20:
            return ""  # a test has put something else there, which may never end
        config = json.loads(file.read_text())
        return str(config["linux"]["cgroupsPath"]).rpartition("/")[2]
    return ""
