"""What a fork of the server does: becomes its caller's, acts, answers, and may serve.

Invariant (nothing-of-another): of what a process inherits, a fork has its caller's
working directory, umask, environment and I/O priority, and all else is the same in
caller and server, or it refuses.
Invariant (one-shim): nothing is done before the caller has said that it waits for us;
a caller that is gone by then has gone cold.
Invariant (no-orphan-start): a shim whose address its caller could not pass on leaves at
once, and so does a `delete` whose caller is gone; the next one finishes.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import signal
import socket
import struct
import sys
from typing import Final, NamedTuple, NoReturn

from dunnage.bootstrap import flags, warm
from dunnage.bootstrap.flags import Flags
from dunnage.host.cgroups import attaching
from dunnage.host.procs import ioprio
from dunnage.host.procs.title import clear_title, set_title

from . import daemon, main
from .start import Begun, abandon, begin, set_oom_score

_SILENCE_LIMIT_S: Final = 30.0
"""How long a caller may take to say what it wants."""
_PASS_ON_LIMIT_S: Final = 2.0
"""How long it may take to pass an address on, before the shim serves nevertheless."""
_UCRED: Final = struct.Struct("iII")


class Refused(Exception):
    """This server is not the caller's."""


class Own(NamedTuple):
    """What the server knows of itself."""

    code: str
    key: bytes


def serve(connection: socket.socket, own: Own) -> NoReturn:
    """Serve one caller, in a process that is for nothing else; never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        # Until the shim can answer to it: it would kill.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        connection.settimeout(_SILENCE_LIMIT_S)
        try:
            request, daemon_pid = admit(connection, own)
        except (Refused, warm.WireError, OSError):
            connection.send(warm.REFUSED, socket.MSG_NOSIGNAL)
            os._exit(0)
        connection.send(warm.READY, socket.MSG_NOSIGNAL)
        if connection.recv(1) == warm.GO:
            status = _act(connection, request, daemon_pid)
    finally:
        os._exit(status)


# -- who is there


def admit(connection: socket.socket, own: Own) -> tuple[warm.Request, int]:
    """Read what a caller wants, and become the caller's.

    Returns:
        The request, and the pid of who has called the caller.

    Raises:
        WireError: the request makes no sense.
        Refused: we would not be what the caller had been itself.
        OSError: it says nothing, or is gone.
    """
    request, cwd = _receive(connection)
    return request, _become(connection, request, cwd, own)


def _receive(connection: socket.socket) -> tuple[warm.Request, int]:
    """Read a request, and the fd of its working directory.

    Raises:
        WireError: it makes no sense.
        OSError: it does not come.
    """
    header, fds, _, _ = socket.recv_fds(connection, warm.HEADER_BYTES, 1)
    if len(fds) != 1:
        raise warm.WireError("there is no working directory")
    header += _exactly(connection, warm.HEADER_BYTES - len(header))
    body = _exactly(connection, warm.body_length(header))
    return warm.Request.parse(body), fds[0]


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = connection.recv(min(count - len(data), 1 << 20))
        if not more:
            raise warm.WireError("it ends too early")
        data += more
    return bytes(data)


def _become(
    connection: socket.socket, request: warm.Request, cwd: int, own: Own
) -> int:
    """Become the caller's; return the pid of who has called the caller.

    Raises:
        Refused: we would not be what it had been itself.
        OSError: likewise.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, _, _ = _UCRED.unpack(raw)
    if pid == 0 or request.code != own.code:
        raise Refused
    proc = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parent = warm.parent(proc)
        is_same = warm.key(proc, request.code, request.environ) == own.key
        with contextlib.suppress(OSError):
            ioprio.take_over(pid)
    finally:
        os.close(proc)
    # As long as it holds the connection, its pid was no other's.
    if not is_same or _has_hung_up(connection):
        raise Refused
    os.fchdir(cwd)
    os.close(cwd)
    os.umask(request.umask)
    os.environb.clear()
    for entry in request.environ:
        name, equals, value = entry.partition(b"=")
        if name and equals:
            os.environb[name] = value
    sys.argv = [os.fsdecode(word) for word in request.argv]
    return parent


def _has_hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


# -- what is wanted


def _act(connection: socket.socket, request: warm.Request, daemon_pid: int) -> int:
    given = _maybe_start(sys.argv[1:])
    if given is None:
        set_title(request.argv, request.environ)
        _leave_with(connection)
        _send(connection, captured(request.stdin))
        # The caller need not wait for our memory to be gone, which takes a while;
        # whoever looks for what it has left does not find us.
        clear_title()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        return 0
    daemon.look_like_one(given)
    set_oom_score("self", daemon_pid)
    begun: list[Begun] = []
    answer = captured(request.stdin, begun)
    listener = begun[0].listener if begun else None
    if listener is None:
        clear_title()  # this is not a shim
    _send(connection, answer)
    attaching.expect()  # Create follows, in this shim or in that of the pod
    is_known = _was_passed_on(connection)
    if listener is None:
        return 0
    if not is_known:
        abandon(listener)
        return 0
    connection.close()
    return daemon.serve(given, begun[0].told, listener)


def _maybe_start(argv: list[str]) -> Flags | None:
    """Return the flags, if they ask for the start of a shim."""
    try:
        given = flags.parse(argv)
    except flags.FlagError:
        return None
    asks = given.version or given.info
    return given if given.action == "start" and given.namespace and not asks else None


def captured(stdin: bytes, begun: list[Begun] | None = None) -> warm.Answer:
    """Run the program as the caller would have run it; return what it has said.

    Args:
        stdin: what it reads.
        begun: takes what was begun instead of a server that is forked once more.
    """
    streams = sys.stdin, sys.stdout, sys.stderr
    out, err = io.BytesIO(), io.BytesIO()
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(stream, "utf-8", "surrogateescape") for stream in (out, err)
    )
    try:
        status = main.main(_begin_into(begun) if begun is not None else main.start)
        sys.stdout.flush()
        sys.stderr.flush()
        return warm.Answer(status, out.getvalue(), err.getvalue())
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams


def _begin_into(begun: list[Begun]) -> main.Start:
    def start(given: Flags, stdin: bytes) -> bytes:
        begun.append(begin(given, stdin))
        return begun[0].answer

    return start


# -- the caller


def _send(connection: socket.socket, answer: warm.Answer) -> None:
    with contextlib.suppress(OSError):  # it is gone: that is found out elsewhere
        connection.sendall(answer.pack(), socket.MSG_NOSIGNAL)


def _was_passed_on(connection: socket.socket) -> bool:
    """Whether the caller has passed our answer on, or is too slow to be waited for."""
    connection.settimeout(_PASS_ON_LIMIT_S)
    try:
        return connection.recv(1) == warm.KNOWN
    except TimeoutError:
        return True
    except OSError:
        return False


def _leave_with(connection: socket.socket) -> None:
    """End this process as soon as the caller does; what it has called dies with it."""

    def look(*_: object) -> None:
        if _has_hung_up(connection):
            os._exit(1)

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    look()
