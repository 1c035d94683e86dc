"""A talk with a fork server, led by hand: it can be held, or broken off, anywhere."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.machine import forkservers
from tests.shim.harness import LIMIT_S, Shim

from dunnage import __version__
from dunnage.bootstrap import warm
from dunnage.host.cgroups import attaching


def environment(directory: Path) -> dict[str, str]:
    """Return what has a shim started by a server of this test."""
    return {warm.DIRECTORY_VARIABLE: str(directory)}


def servers(directory: Path) -> list[int]:
    """Return the servers, without the forks that they keep ready."""
    pids = forkservers(directory)
    return [pid for pid in pids if parent(pid) not in {0, *pids}]


def parent(pid: int) -> int:
    """Return the parent of a process; 0 if the process is gone."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"PPid:\t(\d+)", status)[0])
    return 0


def children(pid: int) -> set[int]:
    """Return the children of a process, zombies among them."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def spare(server: int) -> int:
    """Return the fork that a server keeps ready; 0 while there is none."""
    title = Path(f"/proc/{server}/cmdline").read_bytes()
    return _child(server, lambda line: line == title)


def attacher(server: int) -> int:
    """Return the fork that attaches itself when it is told to; 0 if there is none."""
    return _child(server, lambda line: line.startswith(attaching.NAME))


def _child(server: int, is_it: Callable[[bytes], bool]) -> int:
    """Return the child with a command line like that; 0 if there is none."""
    for pid in children(server):
        with contextlib.suppress(OSError):
            if is_it(Path(f"/proc/{pid}/cmdline").read_bytes()):
                return pid
    return 0


def working(server: int) -> set[int]:
    """Return the forks of a server but those that wait for callers."""
    return children(server) - {spare(server), attacher(server)}


def end(pid: int, signum: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


class Conversation:
    """What a launcher says, word by word; leaving the context hangs up."""

    def __init__(
        self, shim: Shim, directory: Path, id_: str, action: str, stdin: bytes = b""
    ) -> None:
        bundle = shim.bundles / id_
        more = {"bundle": str(bundle)} if action == "delete" else {}
        environ = [os.fsencode(f"{k}={v}") for k, v in shim.env.items()]
        code = warm.code(__version__, str(shim.binary))
        self.request = warm.Request(
            umask=0o22,
            code=code,
            argv=list(map(os.fsencode, shim.flags(id_, action, **more))),
            environ=environ,
            stdin=stdin,
        ).pack()
        self.place = place(directory, code, environ)
        self._cwd = bundle
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT_S)

    @classmethod
    def start(cls, shim: Shim, directory: Path, id_: str) -> Self:
        """Talk about a ``start``."""
        return cls(shim, directory, id_, "start", shim.start_stdin(id_))

    @classmethod
    def delete(cls, shim: Shim, directory: Path, id_: str) -> Self:
        """Talk about a ``delete``."""
        return cls(shim, directory, id_, "delete")

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def connect(self) -> None:
        """Be one of those that wait to be accepted."""
        self.socket.connect(str(self.place / warm.SOCKET))

    def ask_half(self) -> None:
        """Bring half of the request, and the directory."""
        cwd = os.open(self._cwd, os.O_PATH | os.O_DIRECTORY)
        half = self.request[: len(self.request) // 2]
        assert len(half) == socket.send_fds(self.socket, [half], [cwd])
        os.close(cwd)

    def ask_rest(self) -> None:
        """Bring the other half."""
        self.socket.sendall(self.request[len(self.request) // 2 :])

    def hear_ready(self) -> None:
        """Hear that there is somebody who would do it."""
        assert warm.READY == self.socket.recv(1)

    def go(self) -> None:
        """Say that we wait."""
        self.socket.sendall(warm.GO)

    def hear_answer(self) -> warm.Answer:
        """Hear what was done."""
        message = b""
        while True:
            with contextlib.suppress(warm.WireError):
                return warm.Answer.parse(message)
            more = self.socket.recv(1 << 16)
            assert more, "it hangs up"
            message += more

    def confirm(self) -> None:
        """Say that the answer was passed on, and hear the end."""
        self.socket.sendall(warm.KNOWN)
        assert not self.socket.recv(1)


def place(directory: Path, code: str, environ: list[bytes]) -> Path:
    """Return where the server of what runs this test is."""
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return directory / warm.name(warm.key(proc, code, environ))
    finally:
        os.close(proc)
