"""A launcher among stand-ins: a python3 that tells how it was called, and a server.

The launcher looks for python3 beside itself, and so both are in one folder. What its
python3 is to do as a server (die, serve, hold) stands in the file ``mode``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from . import build, expected

LIMIT_S: Final = 30.0
COLD: Final = 42
"""What the stand-in for the shim's program exits with."""
ARGV: Final = ("-namespace", "n", "-id", "c", "start")
WELL: Final = expected.answer(7, b"out", b"err")

PYTHON: Final = f"""#!/usr/bin/python3 -IS
import json, os, socket, sys
here = os.path.dirname(os.path.realpath(__file__))
def status():
    with open("/proc/self/status") as file:
        return dict(line.split(":", 1) for line in file)
served = "dunnage.shim.forkserver" in sys.argv
fds = {{}}
for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self") else ():
    try:
        fds[fd] = os.readlink(f"/proc/self/fd/{{fd}}")
    except OSError:
        pass
told = dict(
    pid=os.getpid(), sid=os.getsid(0), pgid=os.getpgid(0),
    cwd=os.getcwd() if served else "",
    argv=[os.fsencode(word).hex() for word in sys.argv[1:]],
    environ=[(name + b"=" + value).hex() for name, value in os.environb.items()],
    fds=fds, status=status() if os.path.exists("/proc/self") else {{}},
    stdin="" if served else sys.stdin.buffer.read().hex(),
)
kind = "server" if served else "cold"
draft = f"{{here}}/calls/.{{os.getpid()}}"
with open(draft, "w") as file:
    json.dump(told, file)
os.rename(draft, f"{{here}}/calls/{{kind}}.{{os.getpid()}}")
if not served:
    print("cold", end="")
    sys.exit({COLD})
mode = open(f"{{here}}/mode").read()
if mode == "hold":
    socket.socketpair()[0].recv(1)
if mode == "serve":
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[sys.argv.index("--directory") + 1] + "/s")
    listener.listen(100)
    while True:
        connection, _ = listener.accept()
        header = connection.recv(8, socket.MSG_WAITALL)
        connection.recv(int.from_bytes(header[4:], "little"), socket.MSG_WAITALL)
        connection.send(b"R")
        connection.recv(1)
        connection.send({WELL!r})
        connection.recv(1)
        connection.close()
"""


@dataclass
class Heard:
    """What a launcher said to a server."""

    message: bytes = b""
    cwd: tuple[int, int] = (0, 0)
    """Device and inode of the directory that came with the message."""
    words: bytes = b""
    """What it said after the message."""


Behaviour = Callable[[socket.socket, Heard], None]


@dataclass
class Scene:
    """Use as a context: what was started as a server ends with it."""

    directory: Path
    program: Path
    odd: Path
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bin = self.directory / "bin"
        (self.bin / "calls").mkdir(parents=True)
        self.launcher = self.bin / "containerd-shim-dunnage-v2"
        shutil.copy(self.program, self.launcher)
        python = self.bin / "python3"
        python.write_text(PYTHON)
        python.chmod(0o755)
        self.mode("die")
        self.servers = self.directory / "f"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for told in self.calls("server"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(told["pid"], signal.SIGKILL)

    # -- the launcher

    @property
    def code(self) -> str:
        """How this installation is told from another."""
        return expected.code(build.VERSION, self.launcher)

    @property
    def env(self) -> dict[str, str]:
        """The environment that the launcher has, if not told otherwise."""
        return {"PATH": "/usr/bin:/bin", "DUNNAGE_FORKSERVER": str(self.servers)} | (
            self.more
        )

    def entries(self) -> list[bytes]:
        """Return the environment's entries."""
        return [os.fsencode(f"{name}={value}") for name, value in self.env.items()]

    def run(
        self,
        *words: str | bytes,
        prefix: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the launcher to its end; ``prefix`` runs the command given to it."""
        if not {"stdin", "input"} & set(options):
            options["stdin"] = subprocess.DEVNULL
        if "stdout" not in options:
            options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.run(
            [*prefix, self.launcher, *words],
            env=self.env if env is None else env,
            timeout=LIMIT_S,
            check=False,
            **options,
        )

    def run_odd(
        self,
        argv: Sequence[bytes],
        environ: Sequence[bytes],
        stdin: bytes = b"",
        *extra: str,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the launcher with just these words and entries."""
        files = []
        for name, strings in (("words", argv), ("entries", environ)):
            files.append(self.directory / name)
            files[-1].write_bytes(b"".join(each + b"\0" for each in strings))
        return subprocess.run(
            [self.odd, self.launcher, *files, *extra],
            input=stdin,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )

    # -- its python3

    def mode(self, mode: str) -> None:
        """Say what python3 does as a server."""
        (self.bin / "mode").write_text(mode)

    def calls(self, kind: str) -> list[dict[str, Any]]:
        """Return how python3 was called, as a ``server`` or for a ``cold`` start."""
        found = (self.bin / "calls").glob(f"{kind}.*")
        return [json.loads(path.read_text()) for path in found]

    def cold(self) -> dict[str, Any]:
        """Return how python3 was called for the one cold start, and forget it."""
        (told,) = self.calls("cold")
        (self.bin / f"calls/cold.{told['pid']}").unlink()
        return told

    # -- its server

    def place(self, environ: Sequence[bytes] | None = None) -> Path:
        """Return where the launcher looks for the server, made as it must be."""
        given = self.entries() if environ is None else environ
        path = self.servers / expected.name(expected.key(self.code, given))
        for each in (self.servers, path):
            each.mkdir(mode=0o700, exist_ok=True)
        return path

    @contextlib.contextmanager
    def server(
        self, behave: Behaviour, environ: Sequence[bytes] | None = None
    ) -> Iterator[list[Heard]]:
        """Listen where the launcher looks; each request is heard, then answered."""
        path = self.place(environ) / "s"
        heard: list[Heard] = []
        with socket.socket(socket.AF_UNIX) as listener:
            # The path may be longer than a socket's name.
            folder = os.open(path.parent, os.O_PATH)
            listener.bind(f"/proc/self/fd/{folder}/s")
            os.close(folder)
            listener.listen()
            thread = threading.Thread(target=_serve, args=(listener, behave, heard))
            thread.start()
            try:
                yield heard
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()
                path.unlink()


def _serve(listener: socket.socket, behave: Behaviour, heard: list[Heard]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(ConnectionError):
            connection.settimeout(LIMIT_S)
            heard.append(Heard())
            behave(connection, heard[-1])


def hear(connection: socket.socket, heard: Heard) -> None:
    """Take a whole request."""
    data, fds, _, _ = socket.recv_fds(connection, 8, 4)
    assert len(fds) == 1
    status = os.fstat(fds[0])
    os.close(fds[0])
    heard.cwd = (status.st_dev, status.st_ino)
    data += exactly(connection, 8 - len(data))
    heard.message = data + exactly(connection, int.from_bytes(data[4:], "little"))


def exactly(connection: socket.socket, count: int) -> bytes:
    """Take so many bytes."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def answers(answer: bytes = WELL, *, piece: int = 1 << 30) -> Behaviour:
    """Return a server that does all well; it sends in pieces of so many bytes."""

    def behave(connection: socket.socket, heard: Heard) -> None:
        hear(connection, heard)
        connection.sendall(b"R")
        heard.words = exactly(connection, 1)
        for at in range(0, len(answer), piece):
            connection.sendall(answer[at : at + piece])
        heard.words += connection.recv(100)

    return behave


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that nothing announces."""
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)
