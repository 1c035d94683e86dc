"""Who is at the other end is proven, or not said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dunnage.host.procs import peer
from dunnage.host.procs.peer import maybe_peer

# Listens by a helper that is gone, as a shim does.
SERVER = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
if os.fork():
    os._exit(0)
connection, _ = listener.accept()
connection.sendall(str(os.getpid()).encode())
connection.recv(1)
"""


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[socket.socket]:
    """A connection to a process that tells its pid, and ends with it."""
    path = str(tmp_path / "s")
    subprocess.run([sys.executable, "-c", SERVER, path], check=True)
    with socket.socket(socket.AF_UNIX) as ours:
        ours.settimeout(10)
        ours.connect(path)
        yield ours


def test_the_peer_and_nobody_else(connection: socket.socket) -> None:
    """The process that accepted is the peer; we, and the one that listened, are not."""
    pid = int(connection.recv(20))
    process_fd = maybe_peer(connection.fileno(), pid)
    assert process_fd is not None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
    assert pid != int.from_bytes(credentials, sys.byteorder)
    assert maybe_peer(connection.fileno(), os.getpid()) is None
    assert maybe_peer(connection.fileno(), os.getppid()) is None
    os.close(process_fd)


@pytest.mark.parametrize("pid", [0, -1, 1 << 22, (1 << 32) - 1])
def test_a_pid_of_nobody(connection: socket.socket, pid: int) -> None:
    """What a peer says of itself may be any number."""
    connection.recv(20)
    assert maybe_peer(connection.fileno(), pid) is None


def test_one_that_is_over() -> None:
    """A process that has ended, though nobody has reaped it, is no peer."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert maybe_peer(ours.fileno(), process.pid) is None


def test_without_a_diagnosis(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel does not tell, nothing is proven."""
    pid = int(connection.recv(20))
    monkeypatch.setattr(peer, "_NETLINK_SOCK_DIAG", 21)  # no such protocol
    assert maybe_peer(connection.fileno(), pid) is None
    monkeypatch.undo()
    monkeypatch.setattr(peer, "_SOCK_DIAG_BY_FAMILY", 19)  # no such question
    assert maybe_peer(connection.fileno(), pid) is None
