"""The launcher in Python, for where nobody could compile the one in C.

It asks a fork server to act, prints what that answers, and does without it when it is
missing, silent, or another's: then it executes `dunnage.shim.main` in an interpreter
that has all its modules.

Invariant (cold-start): neither asyncio nor protobuf is imported here, nor anything but
what an interpreter without ``site`` has at hand.
Invariant (one-shim): the server's fork binds nothing before we said that we wait for
it; from then on only its end makes us do the work ourselves.
"""

from __future__ import annotations

import _socket
import array
import fcntl
import os
import sys
import time

from dunnage import __version__
from dunnage.bootstrap import flags, warm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

_SILENCE_LIMIT_S: Final = 3.0
"""How long a server may be silent before we do the work ourselves."""
_BIRTH_LIMIT_S: Final = 1.5
"""How long a new server may take until it listens."""
_BIRTH_POLL_S: Final = 0.005
_END_LIMIT_S: Final = 1.0
"""How long the server's fork may take to end when all is said."""


def main() -> int:
    """Act as the shim's command line says; return the exit status."""
    try:
        given = flags.parse(sys.argv[1:])
    except flags.FlagError:
        _go_cold(None)
    asks = given.version or given.info
    if not given.action and not asks:
        _go_cold(None)  # the internal way of being a server
    reads = given.info or (given.action == "start" and not given.version)
    stdin = _read_stdin() if reads else None
    answer = _ask(stdin or b"", may_start=given.action == "start" and not asks)
    if answer is None:
        _go_cold(stdin)
    return answer


# -- the warm way


def _ask(stdin: bytes, *, may_start: bool) -> int | None:
    """Have a fork server act and pass its answer on; None: there is none that would."""
    directory = warm.directory(os.environ, os.geteuid())
    if directory is None:
        return None
    environ = [name + b"=" + value for name, value in os.environb.items()]
    try:
        code = warm.code(__version__, os.path.realpath(sys.argv[0]))
        proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        own = f"{directory}/{warm.name(warm.key(proc, code, environ))}"
        os.close(proc)
        for private in (directory, own):
            if may_start:
                _make(private)
            _expect_private(private)
        server = _connect(own, code, environ, may_start=may_start)
        if server is None:
            return None
        umask = os.umask(0o77)
        os.umask(umask)
        request = warm.Request(
            umask=umask,
            code=code,
            argv=[os.fsencode(word) for word in sys.argv],
            environ=environ,
            stdin=stdin,
        )
        answer = _converse(server, request.pack())
    except (OSError, warm.WireError):
        return None
    if answer is None:
        return None
    _write_all(2, answer.stderr)
    _write_all(1, answer.stdout)
    server.settimeout(_END_LIMIT_S)
    try:  # contextlib costs its import
        server.send(warm.KNOWN)
        if not may_start:
            server.recv(1)  # whoever looks when we are gone finds no child but a shim
    except OSError:
        pass  # the answer is what counts
    status: int = answer.status
    return status


def _converse(server: _socket.socket, request: bytes) -> warm.Answer | None:
    """Bring a request; None if it is refused, or the fork dies."""
    cwd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [cwd]))]
    sent = server.sendmsg([request], rights, _socket.MSG_NOSIGNAL)
    server.sendall(request[sent:], _socket.MSG_NOSIGNAL)
    os.close(cwd)
    if server.recv(1) != warm.READY:
        return None
    server.settimeout(None)
    server.sendall(warm.GO, _socket.MSG_NOSIGNAL)
    # Its length is told by itself: the fork keeps the connection open.
    message = b""
    while True:
        try:
            return warm.Answer.parse(message)
        except warm.WireError:
            more = server.recv(1 << 16)
        if not more:
            return None
        message += more


def _connect(
    own: str, code: str, environ: list[bytes], *, may_start: bool
) -> _socket.socket | None:
    server = _maybe_connect(own)
    if server is not None or not may_start:
        return server
    lock = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _is_locked(lock, own):
            # Another may have come and gone since we looked.
            if (server := _maybe_connect(own)) is not None:
                return server
            _start_server(own, code, environ, lock)
    finally:
        os.close(lock)
    # Ours or another's: as long as it lives, it holds the lock.
    deadline = time.monotonic() + _BIRTH_LIMIT_S
    while (server := _maybe_connect(own)) is None and time.monotonic() < deadline:
        if not _is_held(own):
            return _maybe_connect(own)
        time.sleep(_BIRTH_POLL_S)
    return server


def _is_locked(lock: int, own: str) -> bool:
    """Take the lock of a server's directory; whether we have it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A server that leaves takes its directory with it.
        return os.path.samestat(os.fstat(lock), os.stat(own))
    except OSError:
        return False


def _is_held(own: str) -> bool:
    """Whether somebody holds the lock of a server's directory."""
    probe = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(probe)


def _maybe_connect(own: str) -> _socket.socket | None:
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    server.settimeout(_SILENCE_LIMIT_S)
    try:
        server.connect(f"{own}/{warm.SOCKET}")
    except OSError:
        server.close()
        return None
    return server


def _start_server(own: str, code: str, environ: list[bytes], lock: int) -> None:
    """Start a server that holds the lock; it leaves our session by itself."""
    os.set_inheritable(lock, True)  # noqa: FBT003
    module = ["-I", "-m", "dunnage.shim.forkserver"]
    told = ["--directory", own, "--code", code, "--lock-fd", str(lock)]
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    os.posix_spawn(
        sys.executable,
        [sys.executable, *module, *told],
        dict(entry.split(b"=", 1) for entry in warm.kept_variables(environ)),
        file_actions=null,
    )


def _make(directory: str) -> None:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(os.path.dirname(directory), 0o755, exist_ok=True)
        os.mkdir(directory, 0o700)


def _expect_private(directory: str) -> None:
    """Expect a directory to be ours alone: who can write there can be our server.

    Raises:
        OSError: it is not, or is not there.
    """
    status = os.lstat(directory)
    if status.st_uid != os.geteuid() or status.st_mode & 0o170777 != 0o040700:
        raise PermissionError(f"{directory} is not ours alone")


# -- the cold way


def _go_cold(stdin: bytes | None) -> NoReturn:
    """Execute the shim's program; ``stdin`` is what was read already."""
    if stdin is not None:
        fd = os.memfd_create("stdin", 0)
        _write_all(fd, stdin)
        os.lseek(fd, 0, os.SEEK_SET)
        if fd:
            os.dup2(fd, 0)
            os.close(fd)
    environ = dict(os.environ) | {warm.ARGV0_VARIABLE: sys.argv[0]}
    program = [sys.executable, "-I", "-m", "dunnage.shim.main"]
    os.execve(program[0], [*program, *sys.argv[1:]], environ)


def _read_stdin() -> bytes:
    """Read what a daemon says; a person at a terminal says nothing."""
    data = b""
    try:
        while not os.isatty(0) and len(data) <= flags.STDIN_LIMIT_BYTES:
            more = os.read(0, min(1 << 20, flags.STDIN_LIMIT_BYTES + 1 - len(data)))
            if not more:
                break
            data += more
    except OSError:
        pass
    return data


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    sys.exit(main())
