"""A fork on trial: which pages forks write to, learnt from one that works for nobody.

It is admitted like any other, with the server itself as its caller; it deletes a
container that never was; it is a shim that leads one life with played children; and it
tells which pages it has looked at and copied meanwhile.
A fork that waits for its caller maps and copies them ahead of time.

Invariant (trial-leaves-nothing): afterwards there is no file, descriptor or child more
than before, also where it fails or hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from typing import Any, ClassVar, Final, NoReturn

from dunnage.api.services import TASK_V2
from dunnage.bootstrap import warm
from dunnage.bootstrap.flags import Flags
from dunnage.drivers.runc import Options
from dunnage.host import memory
from dunnage.host.procs import rawfork
from dunnage.ttrpc.connection import ClientConnection

from . import daemon, forked, rehearsal

_LIMIT_S: Final = 2.0
_ID: Final = "trial"


def hold(
    directory: str, own: forked.Own, environ: list[bytes], limit_s: float = _LIMIT_S
) -> memory.Ahead | None:
    """Hold it; None where it comes to nothing: forks then copy when they get there.

    Args:
        directory: where there may be files for a while.
        own: what the server knows of itself.
        environ: the server's environment.
        limit_s: how long it may take.
    """
    with contextlib.ExitStack() as stack:
        try:
            place = tempfile.mkdtemp(prefix="trial-", dir=directory)
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            ours, its = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(its)
            _ask(ours, place, own.code, environ)
            calls = _calls(f"{place}/shim")
            receiving, sending = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, receiving)
            try:
                pid = rawfork.fork()
                if pid == 0:
                    _stand(its, own, place, calls, sending)
            finally:
                os.close(sending)
            pages = _told(pid, receiving, limit_s)
        except OSError:
            return None
    return memory.Ahead(pages) if pages else None


def _ask(ours: socket.socket, place: str, code: str, environ: list[bytes]) -> None:
    """Ask for the delete of a container that has no runtime and no traces."""
    directory = f"{place}/{_ID}"
    os.mkdir(directory)
    Options(binary_name=os.devnull).write(directory)
    given = Flags(namespace=_ID, id=_ID, address=f"{place}/s", action="delete")
    request = warm.Request(
        umask=0o22,
        code=code,
        argv=[os.fsencode(word) for word in (_ID, *given.argv())],
        environ=environ,
        stdin=b"",
    )
    cwd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        socket.send_fds(ours, [request.pack()], [cwd], socket.MSG_DONTWAIT)
    finally:
        os.close(cwd)


def _calls(directory: str) -> list[bytes]:
    """Return what a daemon calls in a container's life, as it is on the wire."""
    connection = ClientConnection()
    one_more = {"exec_id": "e"}
    life: tuple[tuple[str, dict[str, Any]], ...] = (
        ("connect", {}),
        ("create", {"bundle": directory, "options": rehearsal.options()}),
        ("start", {}),
        ("exec", {**one_more, "spec": rehearsal.process()}),
        ("start", one_more),
        ("kill", {**one_more, "signal": int(signal.SIGKILL)}),
        ("wait", one_more),
        ("delete", one_more),
        ("kill", {"signal": int(signal.SIGKILL)}),
        ("wait", {}),
        ("delete", {}),
    )
    packed = []
    for name, fields in life:
        method = getattr(TASK_V2, name)
        payload = method.request(id=rehearsal.ID, **fields).SerializeToString()
        connection.send_request(method.service, method.name, payload)
        packed.append(bytes(connection.data_to_send()))
        connection.data_sent(len(packed[-1]))
    return packed


def _stand(
    connection: socket.socket,
    own: forked.Own,
    place: str,
    calls: list[bytes],
    telling: int,
) -> NoReturn:
    try:
        gc.enable()
        # A shim closes all that it has inherited, but its streams.
        os.dup2(telling, sys.stdout.fileno())
        request, _ = forked.admit(connection, own)
        forked.captured(request.stdin)
        held = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        begun = rehearsal.begin(f"/proc/self/fd/{held}/shim")  # names have a limit
        os.mkfifo("log")
        _Tried.calls = calls
        daemon.look_like_one(begun[0])
        daemon.serve(*begun, _Tried)
    finally:
        os._exit(0)


class _Tried(rehearsal.Rehearsed):
    """A shim that leads one life; then it tells what it has touched."""

    calls: ClassVar[list[bytes]] = []

    async def run(self) -> None:
        running = asyncio.ensure_future(super().run())
        answered = asyncio.Event()
        with socket.socket(socket.AF_UNIX) as caller:

            def hear() -> None:
                caller.recv(1 << 16)
                answered.set()

            caller.connect("s")
            asyncio.get_running_loop().add_reader(caller, hear)
            for call in self.calls:
                caller.send(call)
                await answered.wait()
                answered.clear()
        with open(sys.stdout.fileno(), "wb") as file:
            file.write(memory.touched())
        running.cancel()


def _told(pid: int, receiving: int, limit_s: float) -> bytes:
    """Return what the fork tells, and bury it."""
    end = time.monotonic() + limit_s
    said = b""
    poll = select.poll()
    poll.register(receiving, select.POLLIN)
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        if not (more := os.read(receiving, 1 << 16)):
            break
        said += more
    else:
        said = b""
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return said
