"""Asks a shim over bare ttrpc and writes its answers down, so that two can be compared.

An answer is a text: a refusal is its code and the very words on the wire, a reply its
fields that are not at their default.
What differs from run to run has a name instead: paths, pids (by whose they are), times.
Nothing of our client is used: a call is one connection and two frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from google.protobuf.message import Message
from tests.shim.harness import LIMIT_S, Shim, spec

from dunnage.api import events_pb2, process_pb2, typeurl
from dunnage.api import task_v2_pb2 as pb
from dunnage.api.forward_pb2 import Envelope
from dunnage.api.runc_options_pb2 import Options, ProcessDetails
from dunnage.api.services import TASK_V2
from dunnage.bootstrap import wire
from dunnage.descriptors import Any as Packed
from dunnage.descriptors import Timestamp
from dunnage.ttrpc import wire_pb2

ID = "c1"
CRASH = "the shim is gone"
PENDING = "no answer"
_YEAR_1_S = -62135596800


@dataclass(frozen=True)
class Call:
    """A method and its request; ``name`` tells it from the others of its situation.

    Besides the Task service's methods there are ``write`` (a file), ``run`` (a
    program), ``later`` (what became of the calls without an answer) and ``leftovers``.
    In the texts of a request, ``{bundle}``, ``{directory}``, ``{rootfs}``,
    ``{namespace}`` and ``{runtime}`` stand for the shim's own.
    """

    name: str
    method: str
    fields: dict[str, Any] = field(default_factory=dict)
    service: str = TASK_V2.service
    patience_s: float = LIMIT_S
    """After which there counts as no answer."""


class Asker:
    """One shim with one container to be, and fifos ``in``, ``out`` and ``err``."""

    def __init__(self, shim: Shim) -> None:
        self.shim = shim
        self._names: dict[int, str] = {}
        self._fds: list[int] = []
        self._pending: list[asyncio.Task[str]] = []

    async def __aenter__(self) -> Self:
        shim = self.shim
        bundle = shim.bundle(ID, spec(["sleep", "1000"]))
        self._places = {
            "{bundle}": str(bundle),
            "{rootfs}": str(shim.rootfs),
            "{directory}": str(shim.directory),
            "{namespace}": shim.namespace,
            "{runtime}": shim.runtime,
        }
        for name in ("in", "out", "err"):
            # The Go shim waits for the other end of each: it is here.
            os.mkfifo(shim.directory / name)
            fd = os.open(shim.directory / name, os.O_RDWR | os.O_NONBLOCK)
            self._fds.append(fd)
        done = await asyncio.to_thread(shim.start_action, ID)
        assert done.returncode == 0, done
        self._socket = wire.parse_answer(done.stdout).address.removeprefix("unix://")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        await asyncio.to_thread(self._clear)
        for fd in self._fds:
            os.close(fd)

    def _clear(self) -> None:
        """Delete the container while its shim still lives, and reaps what it must.

        A zombie in a pid namespace keeps that from ending.
        """
        with contextlib.suppress(FileNotFoundError):
            binary = Path(self._places["{bundle}"], "runtime").read_text() or "runc"
            root = f"/run/containerd/runc/{self.shim.namespace}"
            delete = [binary, "--root", root, "delete", "--force", ID]
            subprocess.run(delete, capture_output=True, check=False)

    # -- questions

    async def answer(self, call: Call) -> str:
        """Make the call; return the answer as text."""
        fields = self._filled(call.fields)
        match call.method:
            case "leftovers":
                return self._leftovers()
            case "later":
                await asyncio.wait(self._pending, timeout=call.patience_s)
                return "; ".join(map(_result, self._pending))
            case "write":
                Path(fields["path"]).write_text(fields["text"])
                Path(fields["path"]).chmod(0o755)
                return "ok"
            case "run":
                subprocess.run(fields["argv"], capture_output=True, check=False)
                return "ok"
            case _:
                return await self._answer(call, {"id": ID} | fields)

    async def _answer(self, call: Call, fields: dict[str, Any]) -> str:
        asking = asyncio.create_task(self._ask(call, fields))
        await asyncio.wait([asking], timeout=call.patience_s)
        if not asking.done():
            self._pending.append(asking)
        return _result(asking)

    async def _ask(self, call: Call, fields: dict[str, Any]) -> str:
        method = getattr(TASK_V2, call.method)
        if call.method == "create":
            if binary := fields.pop("binary_name", ""):
                fields["options"] = typeurl.pack(Options(binary_name=binary))
            request = self.shim.create_request(fields.pop("id"), **fields)
        else:
            request = method.request(**fields)
        asked = wire_pb2.Request(
            service=call.service,
            method=method.name,
            payload=request.SerializeToString(),
        )
        try:
            data = await exchange(self._socket, asked)
        except (ConnectionError, FileNotFoundError, EOFError):
            return CRASH
        response = wire_pb2.Response.FromString(data)
        if response.HasField("status"):
            return f"{response.status.code} {self._plain(response.status.message)}"
        reply = method.response.FromString(response.payload)
        self._meet(reply, fields)
        return self._all(reply) or "ok"

    def _filled(self, value: Any) -> Any:
        match value:
            case str():
                for name, place in self._places.items():
                    value = value.replace(name, place)
                return value
            case dict():
                return {key: self._filled(item) for key, item in value.items()}
            case list():
                return [self._filled(item) for item in value]
            case _:
                return value

    # -- answers

    def event(self, envelope: Envelope) -> str:
        """Write an event with its envelope."""
        assert envelope.namespace == self.shim.namespace, envelope
        name = envelope.event.type_url
        kind = getattr(events_pb2, name.removeprefix("containerd.events."))
        message = self._all(kind.FromString(envelope.event.value))
        return f"{_when(envelope.timestamp)} {envelope.topic} {name} {message}"

    def _meet(self, reply: Message, fields: dict[str, Any]) -> None:
        """Remember whose pid it is, at the first sight of it."""
        if isinstance(reply, pb.CreateTaskResponse | pb.StartResponse) and reply.pid:
            self._names.setdefault(reply.pid, fields.get("exec_id") or "init")
        if isinstance(reply, pb.ConnectResponse):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{reply.shim_pid}/cmdline").read_text()
                if self.shim.namespace in command:
                    self._names.setdefault(reply.shim_pid, "shim")

    def _all(self, message: Message) -> str:
        return " ".join(
            f"{descriptor.name}={self._one(descriptor.name, value)}"
            for descriptor, value in message.ListFields()
        )

    def _one(self, name: str, value: Any) -> str:
        match value:
            case Timestamp():
                return _when(value)
            case Packed():
                if typeurl.holds(value, ProcessDetails):
                    details = typeurl.unpack(value, ProcessDetails)
                    return f"{value.type_url}({self._all(details)})"
                # Of cgroups, in the version that the machine has.
                is_metrics = value.type_url.endswith(".Metrics")
                return "metrics" if is_metrics else value.type_url
            case Message():
                return f"({self._all(value)})"
            case str():
                return self._plain(value)
            case int() if name.endswith("pid"):
                return self._names.get(value, "somebody")
            case int() if name == "status":
                return process_pb2.Status.Name(value)  # type: ignore[arg-type]
            case int():
                return str(value)
            case _:  # repeated
                return f"[{', '.join(sorted(self._one(name, it) for it in value))}]"

    def _plain(self, text: str) -> str:
        for name in ("{bundle}", "{rootfs}", "{directory}"):
            text = text.replace(self._places[name], name)
        return text

    def _leftovers(self) -> str:
        """Name what is there but the shim itself."""
        kinds = {"/run/containerd/runc": "state", "/sys/fs/cgroup": "cgroup"}
        names = {
            next((kinds[root] for root in kinds if it.startswith(root)), "mount")
            for it in self.shim.leftovers(ID)
            if not it.startswith(("process ", "unix:"))
        }
        return ", ".join(sorted(names)) or "nothing"


async def exchange(path: str, request: wire_pb2.Request) -> bytes:
    """Send a request over a connection of its own; return the data of the response."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, path)
        data = request.SerializeToString()
        await loop.sock_sendall(sock, struct.pack(">IIBB", len(data), 1, 1, 0) + data)
        length, _, _, _ = struct.unpack(">IIBB", await _read(sock, 10))
        return await _read(sock, length)


async def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _result(asking: asyncio.Task[str]) -> str:
    return asking.result() if asking.done() else PENDING


def _when(stamp: Timestamp) -> str:
    if stamp.seconds == _YEAR_1_S and not stamp.nanos:
        return "never"
    return "now" if abs(stamp.seconds - time.time()) < 2 * LIMIT_S else str(stamp)
