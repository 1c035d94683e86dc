"""One thread that calls shims and hears their events, with little work of its own.

The harness' own time is in every figure, alike for every shim; so there is no loop of
tasks, only poll, read, and the sans-IO connections.
While a call waits for its answer, events are taken as they come, and answered at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias, TypeVar

from dunnage.api.forward_pb2 import ForwardRequest
from dunnage.conformance.decoder import decode
from dunnage.conformance.said import Kind, Said
from dunnage.errors import DunnageError, Unavailable
from dunnage.ttrpc.connection import ClientConnection, ServerConnection
from dunnage.ttrpc.events import CallFailed, RequestReceived, ResponseReceived
from dunnage.ttrpc.services import Message, Method

LIMIT_S: Final = 30.0
"""How long a call may take before the measurement is given up."""

LOST_S: Final = 3.0
"""How long an event may take before it counts as lost."""

_TICK_S: Final = 0.5
"""How often a condition is looked at when nothing comes."""

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)
Steps: TypeAlias = Generator[Callable[[], bool], None, None]


@dataclass
class Call:
    """A call in flight, then its answer."""

    is_over: bool = False
    payload: bytes = b""
    error: DunnageError | None = None

    def done(self) -> bool:
        """Whether the answer is there."""
        return self.is_over


@dataclass
class Hub:
    """Everything that is polled: calls to shims, and one socket for events."""

    path: str
    """Where events are taken; the ttrpc address that shims are given."""
    heard: list[Said] = field(default_factory=list)
    came_ns: dict[tuple[str, str, Kind], int] = field(default_factory=dict)
    """When the first event of a container, an exec (or "") and a kind came, by
    CLOCK_REALTIME."""

    def __post_init__(self) -> None:
        self._poll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1024)
        self._inboxes: dict[int, tuple[socket.socket, ServerConnection]] = {}
        self.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Close every socket of the events."""
        for shim, _ in self._inboxes.values():
            shim.close()
        self._listener.close()
        self._poll.close()

    def watch(self, fd: int, reader: Callable[[], None]) -> None:
        """Call ``reader`` whenever ``fd`` is readable."""
        self._readers[fd] = reader
        self._poll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Watch ``fd`` no more; it is still open."""
        if self._readers.pop(fd, None):
            self._poll.unregister(fd)

    def wait(self, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        """Serve until ``condition`` holds; return whether it does at the limit."""
        end = time.monotonic() + limit_s
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            for fd, _ in self._poll.poll(min(left, _TICK_S)):
                if reader := self._readers.get(fd):
                    reader()
        return True

    def hears(self, container_id: str, kind: Kind, exec_id: str = "") -> bool:
        """Serve until an event came; return whether it did, or is lost."""
        key = (container_id, exec_id, kind)
        return self.wait(lambda: key in self.came_ns, LOST_S)

    def together(self, many: Iterable[Steps], at_a_time: int) -> bool:
        """Take all steps of ``many``, so many side by side.

        Each yields what it waits for.
        Returns False when nothing moved for `LIMIT_S`, and gives up.
        """
        waiting = iter(many)
        running: list[tuple[Steps, Callable[[], bool]]] = []
        while True:
            more = islice(waiting, at_a_time - len(running))
            running.extend((steps, lambda: True) for steps in more)
            if not running:
                return True
            dues = [is_due for _, is_due in running]
            if not self.wait(lambda dues=dues: any(is_due() for is_due in dues)):  # type: ignore[misc]
                return False
            running = list(_advanced(running))

    # -- events

    def _accept(self) -> None:
        shim, _ = self._listener.accept()
        shim.settimeout(0)
        fd = shim.fileno()
        self._inboxes[fd] = (shim, ServerConnection())
        self.watch(fd, lambda: self._take(fd))

    def _take(self, fd: int) -> None:
        shim, connection = self._inboxes[fd]
        data = _received(shim)
        if data is None:
            return
        if not data:
            self.forget(fd)
            del self._inboxes[fd]
            shim.close()
            return
        at_ns = time.time_ns()
        events = [
            event
            for event in connection.receive_data(data)
            if isinstance(event, RequestReceived)
        ]
        for event in events:
            connection.send_response(event.stream_id, b"")
        _flush(shim, connection)
        for event in events:
            self._hear(event.payload, at_ns)

    def _hear(self, payload: bytes, at_ns: int) -> None:
        envelope = ForwardRequest.FromString(payload).envelope
        said = decode(envelope.SerializeToString())
        self.heard.append(said)
        self.came_ns.setdefault((said.container_id, said.exec_id, said.kind), at_ns)


class Link:
    """A connection to one shim."""

    def __init__(self, hub: Hub, path: str) -> None:
        self._hub = hub
        self._connection = ClientConnection()
        self._calls: dict[int, Call] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT_S)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._socket.settimeout(0)
        hub.watch(self._socket.fileno(), self._take)

    def close(self) -> None:
        """Drop the connection; what is in flight fails."""
        if self._socket.fileno() >= 0:
            self._hub.forget(self._socket.fileno())
            self._socket.close()
        for call in self._calls.values():
            call.error, call.is_over = Unavailable("the connection has ended"), True
        self._calls.clear()

    def begin(self, method: Method[Req, Resp], request: Req) -> Call:
        """Send a request."""
        if self._socket.fileno() < 0:
            raise Unavailable("the connection has ended")
        call = Call()
        stream_id = self._connection.send_request(
            method.service, method.name, request.SerializeToString()
        )
        self._calls[stream_id] = call
        _flush(self._socket, self._connection)
        return call

    def call(self, method: Method[Req, Resp], request: Req) -> Resp:
        """Send a request and serve until its answer is there.

        Raises:
            DunnageError: what was answered, or that the connection ended.
            TimeoutError: nothing was answered.
        """
        call = self.begin(method, request)
        if not self._hub.wait(call.done):
            raise TimeoutError(f"{method.full_name} took more than {LIMIT_S} s")
        return answer(method, call)

    def _take(self) -> None:
        data = _received(self._socket)
        if data is None:
            return
        if not data:
            self.close()
            return
        for event in self._connection.receive_data(data):
            call = self._calls.pop(event.stream_id, Call())
            if isinstance(event, ResponseReceived):
                call.payload = event.payload
            elif isinstance(event, CallFailed):
                call.error = event.error
            call.is_over = True


def answer(method: Method[Req, Resp], call: Call) -> Resp:
    """Return what a call that is over was answered with, or raise it."""
    if call.error:
        raise call.error
    return method.response.FromString(call.payload)


def _advanced(
    running: list[tuple[Steps, Callable[[], bool]]],
) -> Iterator[tuple[Steps, Callable[[], bool]]]:
    """Advance whoever is due; those that are not at their end remain."""
    for steps, is_due in running:
        due = is_due
        if due():
            with contextlib.suppress(StopIteration):
                yield steps, next(steps)
        else:
            yield steps, due


def _received(shim: socket.socket) -> bytes | None:
    """Return what came; b"" is the end, None nothing."""
    try:
        return shim.recv(1 << 16)
    except BlockingIOError:
        return None
    except ConnectionError:
        return b""


def _flush(
    shim: socket.socket, connection: ClientConnection | ServerConnection
) -> None:
    """Write what there is; it is little, and the peer reads."""
    try:
        while data := connection.data_to_send():
            try:
                connection.data_sent(os.write(shim.fileno(), data))
            except BlockingIOError:
                select.select([], [shim], [], LIMIT_S)
    except ConnectionError:
        return  # the reader will meet the end
