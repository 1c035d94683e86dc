"""Asks a shim over bare ttrpc and writes its answers down, so that two can be compared.

What an answer holds is written as text: a refusal as its code and the very text on the
wire, a reply as its fields that are not at their default.
What differs from run to run has a name instead: paths, pids (by whose they are), times.
Nothing of the client under test is used: a call is one connection and two frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from google.protobuf.message import Message
from tests.shim.harness import LIMIT_S, Shim, spec

from dunnage.api import process_pb2, typeurl
from dunnage.api import task_v2_pb2 as pb
from dunnage.api.runc_options_pb2 import ProcessDetails
from dunnage.api.services import TASK_V2
from dunnage.bootstrap import wire
from dunnage.descriptors import Timestamp
from dunnage.ttrpc import wire_pb2

ID = "c1"
CRASH = "the shim is gone"
PENDING = "no answer yet"
_PATIENCE_S = 0.1
"""How long an answer may take that is not expected to come yet."""
_YEAR_1_S = -62135596800


@dataclass(frozen=True)
class Call:
    """A method and its request; ``name`` tells it from others of its situation.

    In the texts of a request, ``{bundle}``, ``{directory}`` and ``{rootfs}`` stand for
    the shim's own.
    """

    name: str
    method: str
    fields: dict[str, Any] = field(default_factory=dict)
    service: str = TASK_V2.service
    may_pend: bool = False


class Asker:
    """One shim with one container to be, and fifos ``in``, ``out``, ``err``."""

    def __init__(self, shim: Shim, config: Any) -> None:
        self.shim = shim
        self._config = config
        self._names: dict[int, str] = {}
        self._fds: list[int] = []
        self._pending: list[asyncio.Task[str]] = []

    async def __aenter__(self) -> Self:
        config = self._config
        if not isinstance(config, str):
            config = spec(["sleep", "1000"]) | config
        self.bundle = self.shim.bundle(ID, config)
        for name in ("in", "out", "err"):
            path = self.shim.directory / name
            os.mkfifo(path)
            self._fds.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        done = await asyncio.to_thread(self.shim.start_action, ID)
        assert done.returncode == 0, done
        self._socket = wire.parse_answer(done.stdout).address.removeprefix("unix://")
        return self

    async def __aexit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)

    async def answer(self, call: Call) -> str:
        """Make the call; return the answer as text."""
        if call.method == "Leftovers":
            return self._leftovers()
        if call.method == "Pending":
            return "; ".join([await task for task in self._pending])
        asking = asyncio.create_task(self._ask(call))
        if call.may_pend:
            await asyncio.wait([asking], timeout=_PATIENCE_S)
            if not asking.done():
                self._pending.append(asking)
                return PENDING
        return await asking

    async def _ask(self, call: Call) -> str:
        method = getattr(TASK_V2, call.method)
        fields = {"id": ID} | self._filled(call.fields)
        if call.method == "create":
            request = self.shim.create_request(fields.pop("id"), **fields)
        else:
            request = method.request(**fields)
        asked = wire_pb2.Request(
            service=call.service,
            method=method.name,
            payload=request.SerializeToString(),
        )
        try:
            data = await asyncio.to_thread(exchange, self._socket, asked)
        except (ConnectionError, EOFError):
            return CRASH
        response = wire_pb2.Response.FromString(data)
        if response.HasField("status"):
            return f"{response.status.code} {self._plain(response.status.message)}"
        reply = method.response.FromString(response.payload)
        self._meet(call, reply)
        return self.written(reply) or "ok"

    def _meet(self, call: Call, reply: Message) -> None:
        """Remember whose pid it is, at the first sight of it."""
        if isinstance(reply, pb.CreateTaskResponse | pb.StartResponse) and reply.pid:
            name = call.fields.get("exec_id") or "init"
            self._names.setdefault(reply.pid, name)
        if isinstance(reply, pb.ConnectResponse):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{reply.shim_pid}/cmdline").read_text()
                if self.shim.namespace in command:
                    self._names.setdefault(reply.shim_pid, "shim")

    def written(self, message: Message) -> str:
        """Write the fields of a message that are not at their default."""
        words = []
        for descriptor, value in message.ListFields():
            words.append(f"{descriptor.name}={self._written(descriptor.name, value)}")
        return " ".join(words)

    def _written(self, name: str, value: Any) -> str:
        if isinstance(value, Timestamp):
            return _when(value)
        if name.endswith("pid"):
            return self._names.get(value, "somebody" if value else "0")
        if name == "status":
            return process_pb2.Status.Name(value)
        if name == "processes":
            return f"[{', '.join(sorted(map(self._process, value)))}]"
        if isinstance(value, Message):
            return f"({self.written(value)})"
        if not isinstance(value, str) and hasattr(value, "__iter__"):
            items = [self._written(name, item) for item in value]
            return f"[{', '.join(items)}]"
        return self._plain(str(value))

    def _process(self, info: Any) -> str:
        words = [self._written("pid", info.pid)]
        if info.HasField("info"):
            words.append(info.info.type_url)
            words.append(typeurl.unpack(info.info, ProcessDetails).exec_id)
        return " ".join(words)

    def _filled(self, value: Any) -> Any:
        match value:
            case str():
                return value.format(
                    bundle=self.bundle,
                    directory=self.shim.directory,
                    rootfs=self.shim.rootfs,
                )
            case dict():
                return {key: self._filled(item) for key, item in value.items()}
            case list():
                return [self._filled(item) for item in value]
            case _:
                return value

    def _plain(self, text: str) -> str:
        text = text.replace(str(self.bundle), "{bundle}")
        return text.replace(str(self.shim.directory), "{directory}")

    def _leftovers(self) -> str:
        """Say what is there but the shim itself."""
        shims = (f"process {self._names}", "process", "unix:", "/run/containerd/s/")
        left = [it for it in self.shim.leftovers(ID) if not it.startswith(shims)]
        return self._plain("; ".join(left)) or "nothing"


def exchange(path: str, request: wire_pb2.Request) -> bytes:
    """Send a request over a connection of its own; return the data of the response."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect(path)
        data = request.SerializeToString()
        sock.sendall(struct.pack(">IIBB", len(data), 1, 1, 0) + data)
        length, _, _, _ = struct.unpack(">IIBB", _read(sock, 10))
        return _read(sock, length)


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _when(stamp: Timestamp) -> str:
    if stamp.seconds == _YEAR_1_S and not stamp.nanos:
        return "never"
    return "now" if abs(stamp.seconds - time.time()) < LIMIT_S else str(stamp)
