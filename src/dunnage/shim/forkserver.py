"""The warm parent: pays for Python once, and forks a shim whenever one is wanted.

It accepts, and hands each caller to a fork of its own (`forked`), which alone reads
what the caller says: one that is silent blocks nobody.
A fork is kept ready, so that nobody waits for fork(2).

Shims are its direct children, and what falls to it when a shim dies is reaped here.
Its own death costs the next `start` time, never a container.

Invariant (one-server): of one key there is one server: it holds a lock on its directory
as long as it lives.
Invariant (one-thread-at-fork): it has one thread, and a fork has nothing of an earlier
caller, as the server itself never learns anything of one; nor has it the server's
listening socket.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, Final, NoReturn

if __name__ == "__main__":
    # asyncio and hashlib would load OpenSSL, which no shim needs.
    _absent: dict[str, Any] = sys.modules
    _absent["ssl"] = _absent["_hashlib"] = None

from dunnage.bootstrap import warm
from dunnage.host import memory
from dunnage.host.cgroups import attaching
from dunnage.host.procs import idling, rawfork, sealed, set_child_subreaper
from dunnage.host.procs.title import set_title

from . import forked, ready, trial

NAME: Final = "dunnage-forkserver"
IDLE_LIMIT_S: Final = 600.0
"""How long a server without children waits for a caller."""
_BACKLOG: Final = 4096
_LULL_S: Final = 0.004
"""How long nobody has come when the next fork is made: not while a shim that was just
started needs the processors."""
_CROWD_S: Final = 0.015
"""How long a fork that cannot work idly waits before it copies anything."""
_COOL_S: Final = 600.0
"""How long a fork keeps what it has copied ahead, if nobody comes."""
_RUNTIMES: Final = ("runc", "crun")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_ROOM_PAUSE_S: Final = 0.1
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_UCRED: Final = struct.Struct("iII")


def main(argv: list[str] | None = None) -> int:
    """Serve until nobody needs us; return the exit status."""
    parser = argparse.ArgumentParser(prog=NAME)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--code", required=True)
    parser.add_argument("--lock-fd", type=int, required=True)
    parser.add_argument("--idle-s", type=float, default=IDLE_LIMIT_S)
    given = parser.parse_args(argv)
    _detach(given.lock_fd)
    own = forked.Own(given.code, _own_key(given.code))
    if warm.name(own.key) != os.path.basename(given.directory):
        return 1  # whoever started us would be refused, or another served wrongly
    set_title([NAME.encode(), given.directory.encode()], _environment())
    set_child_subreaper()
    ready.make_ready(given.directory)
    _keep_runtimes()
    ahead = trial.hold(given.directory, own, _environment())
    server = Server(given.directory, given.lock_fd, own, given.idle_s, ahead)
    ready.share()  # what was written since; a fork could not give its copy of it back
    # What was shown is a file's now, and the kernel shows no file's.
    set_title([NAME.encode(), given.directory.encode()], _environment())
    server.run()
    return 0


def _detach(lock: int) -> None:
    """Leave whoever started us: session, directory, fds, signals, name."""
    with contextlib.suppress(OSError):
        os.setsid()
    os.chdir("/")
    os.umask(0o077)
    os.closerange(3, lock)
    os.closerange(lock + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_inheritable(lock, False)  # noqa: FBT003
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # Those that Python itself ignores stay ignored.
        if signum not in {signal.SIGPIPE, signal.SIGXFSZ}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _environment() -> list[bytes]:
    return [name + b"=" + value for name, value in os.environb.items()]


def _keep_runtimes() -> None:
    """Keep copies of the runtimes, so that they need not copy themselves; or renew."""
    sealed.keep(_RUNTIMES, _PATH)


def _own_key(code: str) -> bytes:
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return warm.key(proc, code, _environment())
    finally:
        os.close(proc)


class Server:
    """Accepts callers and gives each to a fork.

    Args:
        directory: where to listen; ours alone.
        lock: an fd of it, locked.
        own: what a caller is compared with.
        idle_s: how long to wait for a caller without having children.
        ahead: what a fork does that has nothing to do yet.
    """

    def __init__(
        self,
        directory: str,
        lock: int,
        own: forked.Own,
        idle_s: float,
        ahead: memory.Ahead | None = None,
    ) -> None:
        self._directory = directory
        self._path = f"{directory}/{warm.SOCKET}"
        self._lock = lock
        self._own = own
        self._idle_s = idle_s
        self._ahead = ahead
        self._spare: tuple[int, socket.socket] | None = None
        self._is_short = False
        self._can_idle = idling.is_possible()
        self._attacher = 0
        self._listener: socket.socket | None = None
        self._died, self._wake = socket.socketpair()
        for end in (self._died, self._wake):
            end.settimeout(0)

    def run(self) -> None:
        """Serve until nobody came for long, and no child is left."""
        # Not earlier: it would keep the memory that was shared before.
        unwanted = [self._lock, self._died.fileno(), self._wake.fileno()]
        self._attacher = attaching.begin(self._directory, unwanted)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._spare = self._fork_spare()
        self._listener = _listen(self._path)
        while self._turn(self._listener):
            pass
        # Whoever connects until we end goes cold by our end.
        with contextlib.suppress(OSError):
            os.unlink(self._path)
            os.rmdir(self._directory)

    def _turn(self, listener: socket.socket) -> bool:
        """Wait for something and serve it; False if nobody needs us any more."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._died, select.POLLIN)
        limit_s = _LULL_S if self._is_short else self._idle_s
        ready = dict(poll.poll(limit_s * 1000))
        if not ready and not self._is_short:
            return self._has_children()
        if not ready:
            self._is_short = False
            _keep_runtimes()
            with contextlib.suppress(OSError):
                self._spare = self._fork_spare()
        if self._died.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._died.recv(4096)
            self._reap()
        if listener.fileno() in ready:
            self._accept(listener)
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._spare and pid == self._spare[0]:
                self._drop_spare()
            if pid == self._attacher:
                self._attacher = 0  # a child may have that pid, one day

    def _has_children(self) -> bool:
        """Whether there is any child but those that wait for callers."""
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            pids = {int(pid) for pid in file.read().split()}
        return bool(pids - {self._attacher, self._spare[0] if self._spare else 0})

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                time.sleep(_NO_ROOM_PAUSE_S)
            return
        with connection:
            if _is_ours(connection):
                # A spare may have been killed: that one tries once more.
                _ = self._hand_over(connection) or self._hand_over(connection)
        self._is_short = self._spare is None

    def _hand_over(self, connection: socket.socket) -> bool:
        """Give a caller to a fork; without one it hears our hanging up."""
        try:
            pid, control = self._spare or self._fork_spare(connection)
            self._spare = (pid, control)
            if self._can_idle:
                idling.end(pid)  # it may be in the midst of its preparations
            socket.send_fds(control, [warm.GO], [connection.fileno()])
        except OSError:
            return False
        else:
            return True
        finally:
            self._drop_spare()

    def _drop_spare(self) -> None:
        if self._spare:
            self._spare[1].close()
            self._spare = None

    def _fork_spare(
        self, connection: socket.socket | None = None
    ) -> tuple[int, socket.socket]:
        """Fork a child that waits for a caller.

        Args:
            connection: a caller's that is open here; the child gets its own of it, and
                one more would keep the caller waiting for the end.

        Raises:
            OSError: there is no room for it.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # No handler of ours runs in the child, and no byte of it reaches our wake-up.
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = rawfork.fork()
            if pid == 0:
                self._be_the_child(its, (ours, connection), mask)
            if connection is None and self._can_idle:
                idling.begin(pid)  # not by itself: it could come after our end of it
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            its.close()
        return pid, ours

    def _be_the_child(
        self,
        control: socket.socket,
        parents: tuple[socket.socket | None, ...],
        mask: set[int | signal.Signals],
    ) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(self._lock)
            for held in (*parents, self._died, self._wake, self._listener):
                if held is not None:
                    held.close()
            if self._ahead:
                self._prepare(self._ahead, control)
            _, fds, _, _ = socket.recv_fds(control, 1, 1)
            control.close()
            if fds:
                gc.enable()
                forked.serve(socket.socket(fileno=fds[0]), self._own)
        finally:
            os._exit(1)

    def _prepare(self, ahead: memory.Ahead, control: socket.socket) -> None:
        """Do ahead what the next caller would wait for, until there is one."""
        if not self._can_idle and _says_something(control, _CROWD_S):
            return  # in a crowd there is better to do for the processors
        ahead.copy(lambda: _says_something(control, 0))
        if self._can_idle:
            idling.end()
        if not _says_something(control, _COOL_S):
            memory.give_back()


def _nothing(*_: object) -> None:
    """Handle SIGCHLD: with a handler it wakes us up."""


def _listen(path: str) -> socket.socket:
    """Listen where a dead server may have listened; we hold the lock."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)  # in a directory that is ours alone
    listener.listen(_BACKLOG)
    listener.settimeout(0)
    return listener


def _says_something(control: socket.socket, within_s: float) -> bool:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def _is_ours(connection: socket.socket) -> bool:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(raw)
    return bool(uid == os.geteuid())


if __name__ == "__main__":
    sys.exit(main())
