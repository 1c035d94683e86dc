"""The server process: composes everything, and leaves when nobody owns it any more.

Invariant (leaves-clean): asked to shut down, the shim leaves only when nobody owns it,
and after a drain of its outbox; its socket is unlinked first, and only if it is still
its own, so that a successor with the same id never meets the leaving one.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Final

from dunnage.api.services import TASK_V2, TASK_V3
from dunnage.bootstrap import address, wire
from dunnage.bootstrap.flags import Flags
from dunnage.drivers.runc import Options, RuncDriver
from dunnage.errors import InvalidArgument
from dunnage.host import loop, memory
from dunnage.host.procs import Children, set_child_subreaper
from dunnage.host.procs.spawn import raise_nofile_limit
from dunnage.host.procs.title import set_title
from dunnage.host.stdio import Held
from dunnage.publish.outbox import Outbox
from dunnage.publish.publisher import Publisher
from dunnage.ttrpc.aio.server import Server

from . import log, socket_file
from .dump import dump
from .expected import Expected
from .idle import unwanted
from .rest import Rest
from .service import TaskService

_log = logging.getLogger(__name__)

_ANSWER_DRAIN_S: Final = 2.5
"""How long Shutdown's answer waits for the outbox: the daemon gives it 3 s."""
_LEAVING_DRAIN_S: Final = 300.0
"""How long the shim then stays for what is still unsaid, and then for unread output."""
_SETTLE_LIMIT_S: Final = 10.0
"""How long it stays for operations in flight, and for answers to be taken."""
_LOG_LIMIT_S: Final = 5.0
"""How long it stays for a reader of the log to take what is unsaid."""
_IDLE_LIMIT_S: Final = 300.0
"""How long a shim that has never had a task waits for somebody to connect."""
_INHERITED_FD: Final = 3
_MOST_CONNECTIONS: Final = 4096


def serve_here(flags: Flags) -> int:
    """Serve in this process, on ``-socket`` or on the socket inherited as fd 3.

    Raises:
        InvalidArgument: there is no socket to serve on.
    """
    if flags.socket:
        listener = socket_file.bind(address.unix_name(flags.socket))
        if listener is None:
            raise InvalidArgument(f"socket {flags.socket} is served already")
    else:
        try:
            listener = socket.socket(fileno=_INHERITED_FD)
        except OSError as error:
            raise InvalidArgument("no -socket, and no socket as fd 3") from error
        listener.set_inheritable(False)
    look_like_one(flags)
    return serve(flags, wire.parse_start(b"", flags, os.environ), listener)


def look_like_one(flags: Flags) -> None:
    """Show the words by which operators look for a shim; as the Go shim's."""
    words = [sys.argv[0]]
    for name in ("namespace", "id", "address"):
        words += [f"-{name}", getattr(flags, name)]
    title = [os.fsencode(word) for word in (*words, *["-debug"] * flags.debug)]
    set_title(title, [n + b"=" + v for n, v in os.environb.items()])


def serve(
    flags: Flags,
    told: wire.Start,
    listener: socket.socket,
    kind: Callable[[Flags, wire.Start, socket.socket], Daemon] | None = None,
) -> int:
    """Serve until it is time to leave; return the exit status.

    Args:
        flags: those of `start`.
        told: what the daemon has said to it.
        listener: where to serve.
        kind: of the shim; None: `Daemon`.
    """
    path = str(listener.getsockname())
    identity = socket_file.file_identity(path)
    fields = {"runtime": "io.containerd.dunnage.v2", "namespace": flags.namespace}
    log.set_up(fields, debug=told.debug)
    # Into the log, not the bundle: the daemon removes that as soon as we are gone.
    faulthandler.enable(file=2)
    try:
        set_child_subreaper()
        raise_nofile_limit()
        memory.merge_equal()
        _close_what_was_inherited(listener.fileno())
        loop.run((kind or Daemon)(flags, told, listener).run())
    except BaseException:  # noqa: BLE001  # the log is the only place to say it
        _log.critical("the shim dies", exc_info=True)
        # Nobody comes to it any more; a successor's is another file.
        with contextlib.suppress(OSError):
            socket_file.unlink_if_ours(path, identity)
        return 1
    return 0


class Daemon:
    """One shim: its children, its events, its server."""

    def __init__(self, flags: Flags, told: wire.Start, listener: socket.socket) -> None:
        self._listener = listener
        self._path = str(listener.getsockname())
        self._identity = socket_file.file_identity(self._path)
        self._namespace = flags.namespace
        self._children = Children()
        self._held = Held()
        self._outbox = Outbox(flags.namespace, time.time_ns)
        self._publisher = Publisher(
            self._outbox,
            flags.namespace,
            told.ttrpc_address,
            grpc_address=told.grpc_address,
            publish_binary=told.containerd_binary,
            run=self._children.run,
        )
        self._server = Server(max_connections=_max_connections())
        expected = Expected(lambda: self._server.connections, time.monotonic)
        expected.add(flags.id)
        self._rest = Rest(lambda: self._service.is_working)
        self._service = TaskService(
            self._driver, self._outbox.put, self._leave, expected, self._rest.stir
        )
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Serve until shut down, then say what is left to say."""
        server = self._server
        self._service.register(server, TASK_V2)
        self._service.register(server, TASK_V3)
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._leaving.set)
        loop.add_signal_handler(signal.SIGUSR1, self._dump)
        with self._children:
            publishing = loop.create_task(self._publisher.run())
            server.listen_on(self._listener)
            idling = loop.create_task(self._leave_when_unwanted())
            await self._leaving.wait()
            self._rest.close()
            idling.cancel()
            self._withdraw()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_LIMIT_S):
                    await self._service.settled()
            await server.drain(timeout_s=_SETTLE_LIMIT_S)
            await server.close()
            await self._publisher.drained(_LEAVING_DRAIN_S)
            await self._publisher.log_unsaid(_room_until(_LOG_LIMIT_S))
            self._publisher.close()
            publishing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await publishing
            await self._held.drained(_LEAVING_DRAIN_S)

    async def _leave_when_unwanted(self) -> None:
        called = select.poll()
        called.register(self._listener, select.POLLIN)
        while await unwanted(
            self._server, lambda: self._service.has_had_task, _IDLE_LIMIT_S
        ):
            if not called.poll(0):
                self._leaving.set()
                return
            await asyncio.sleep(0)  # somebody came just now: the loop lets them in

    def _dump(self) -> None:
        dump(self._service.entries, self._service.calls, self._publisher.describe())

    async def _leave(self) -> None:
        """Withdraw, give old events a chance to precede a successor's, and leave."""
        self._withdraw()
        await self._publisher.drained(_ANSWER_DRAIN_S)
        # The answer is written before the server is closed.
        asyncio.get_running_loop().call_soon(self._leaving.set)

    def _withdraw(self) -> None:
        """Unlink the socket, then stop to listen, and admit nobody.

        In one step: who meets the shim after it finds nothing, or hears the refusal.
        """
        with contextlib.suppress(OSError):
            socket_file.unlink_if_ours(self._path, self._identity)
        self._identity = None
        self._server.stop_listening()
        self._service.admit_nobody()

    def _driver(self, options: Options) -> RuncDriver:
        return RuncDriver(self._children, options, self._namespace, self._held)


def _room_until(limit_s: float) -> Callable[[], Coroutine[None, None, None]]:
    """Return what waits for room in the log, in all as long as the limit."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    return lambda: log.room(end - loop.time())


def _max_connections() -> int:
    """Return how many connections there may be: half of our fds are for our work."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if soft < 0 else min(_MOST_CONNECTIONS, soft // 2)


def _close_what_was_inherited(kept: int) -> None:
    """Close the fds above 2 that came from whoever started us, but ``kept``."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd in {0, 1, 2, kept}:
            continue
        with contextlib.suppress(OSError):  # the fd of the listing itself is gone
            if os.get_inheritable(fd):
                os.close(fd)
