"""The pseudo-terminal of a process: its master, and how the runtime hands it over.

Owns: the socket that a runtime sends the master to, and what is odd about a master.
Must not know: what flows through it, and where to.

A master whose slave nobody has open hangs up: reads and writes fail with EIO, and a
level-triggered poll says so for ever.
That is no end: a process may open its terminal later, or again (systemd's vhangup).
So while the process lives we hold a slave of our own, and the master is an ordinary
stream; once the process is gone we let go of it, and what is left is read to its end.

Invariant (console-socket-goes): the socket and its directory are gone when
`ConsoleSocket.close` returns, whatever the runtime did.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import struct
from array import array
from contextlib import ExitStack
from termios import TIOCSWINSZ
from typing import Final

from dunnage.errors import DunnageError, kind_of

from .fd import Fd

# Not in Python's termios (before 3.13).
_TIOCGPTN: Final = 0x8004_5430
_TIOCGPTPEER: Final = 0x5441
_NAME_BYTES: Final = 4096
_SOCKET: Final = "s"


class ConsoleSocket:
    """Where a runtime sends the master of the terminal that it has made.

    It is in a private directory in ``parent``, so that it goes with the bundle even if
    we are killed.
    The runtime gets a path through our own descriptor of that directory: the path of a
    bundle is often too long for a socket's (Docker's is).
    """

    def __init__(self, parent: str) -> None:
        with ExitStack() as undo:
            self._directory = f"{parent}/console-{secrets.token_hex(4)}"
            os.mkdir(self._directory, 0o700)
            undo.callback(os.rmdir, self._directory)
            self._fd = Fd(os.open(self._directory, os.O_PATH | os.O_CLOEXEC))
            undo.callback(self._fd.close)
            self._listener = socket.socket(socket.AF_UNIX)
            undo.callback(self._listener.close)
            self.path = f"/proc/{os.getpid()}/fd/{self._fd.number}/{_SOCKET}"
            self._listener.bind(self.path)
            undo.callback(os.unlink, f"{self._directory}/{_SOCKET}")
            self._listener.settimeout(0)
            self._listener.listen()
            self._undo = undo.pop_all()

    def receive(self) -> Fd:
        """Return the master, when the runtime has ended; waits for nothing.

        By then it has connected and sent what it will ever send, and the kernel has
        kept it for us: nothing in that needs us at the other end.

        Raises:
            DunnageError: it has sent none, or something else.
        """
        with ExitStack() as undo:
            try:
                connection, _ = self._listener.accept()
                undo.callback(connection.close)
                connection.settimeout(0)
                fds = _receive_fds(connection)
            except OSError as error:
                kind = kind_of(error, DunnageError)
                reason = os.strerror(error.errno or 0).lower()
                if isinstance(error, BlockingIOError):
                    kind, reason = DunnageError, "the runtime has sent none"
                raise kind(f"failed to retrieve console master: {reason}") from error
            for fd in fds:
                undo.callback(fd.close)
            if len(fds) != 1 or not _is_master(fds[0].number):
                raise DunnageError(
                    "failed to retrieve console master: not one terminal was sent"
                )
            undo.pop_all()
            connection.close()
        return fds[0]

    def close(self) -> None:
        """Remove it; idempotent."""
        with contextlib.suppress(FileNotFoundError):  # the bundle was removed under us
            self._undo.close()


class Pty:
    """A master that does not hang up while its process lives.

    Raises:
        OSError: our slave of it cannot be opened.
    """

    def __init__(self, master: Fd) -> None:
        self.master = master
        self.is_ending = False
        os.set_blocking(master.number, False)
        self._slave = Fd(self._open_slave())

    def hold(self) -> None:
        """Hold a slave again, after something has hung up the one that we had."""
        if self.is_ending or not self.master.is_open:
            return
        self._slave.close()
        # TIOCEXCL may be in our way, or a limit: whoever finds it hung up asks again.
        with contextlib.suppress(OSError):
            self._slave = Fd(self._open_slave())

    def let_go(self) -> None:
        """The process has ended: what is there by now is all."""
        self.is_ending = True
        self._slave.close()

    def resize(self, width: int, height: int) -> None:
        """Set the size; the foreground process gets SIGWINCH. Too late: ignored."""
        if self.master.is_open:
            size = struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0)
            fcntl.ioctl(self.master.number, TIOCSWINSZ, size)

    def close(self) -> None:
        """Hang up: who still has the terminal gets SIGHUP; idempotent."""
        self._slave.close()
        self.master.close()

    def _open_slave(self) -> int:
        # By the master itself: its name means nothing outside the container.
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        return fcntl.ioctl(self.master.number, _TIOCGPTPEER, flags)


def _receive_fds(connection: socket.socket) -> list[Fd]:
    size = array("i").itemsize
    _, ancillary, _, _ = connection.recvmsg(
        # Room for two, so that more than one is noticed and none is left open.
        _NAME_BYTES,
        socket.CMSG_SPACE(2 * size),
        socket.MSG_CMSG_CLOEXEC,
    )
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % size])
    return [Fd(number) for number in found]


def _is_master(fd: int) -> bool:
    try:
        fcntl.ioctl(fd, _TIOCGPTN, bytes(4))
    except OSError:
        return False
    return True
