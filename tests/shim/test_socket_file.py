"""The socket in the file system: who may bind, and who may unlink."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dunnage.shim import socket_file


@pytest.fixture
def path() -> Iterator[str]:
    """Give a path for a socket, in a directory that is not there yet."""
    with tempfile.TemporaryDirectory(prefix="dn-", dir="/tmp") as name:
        yield f"{name}/s/socket"


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    """Give a socket that listens there."""
    bound = socket_file.bind(path)
    assert bound
    with bound:
        yield bound


def test_a_socket_is_bound_for_its_owner_only(
    path: str, listener: socket.socket
) -> None:
    """The directory is made 0700, the socket is 0600 and accepts."""
    assert 0o700 == stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode)
    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)
    assert not os.get_inheritable(listener.fileno())
    assert socket_file.is_served(path)


def test_a_served_socket_is_not_bound_again(path: str, listener: socket.socket) -> None:
    """Who finds a server leaves it alone."""
    identity = socket_file.file_identity(path)
    assert socket_file.bind(path) is None
    socket_file.unlink_if_stale(path)
    assert identity == socket_file.file_identity(path)


def test_a_busy_server_is_alive(path: str, listener: socket.socket) -> None:
    """A backlog that is full is no reason to take somebody's socket away."""
    listener.listen(0)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(path)
        assert socket_file.is_served(path)
        assert socket_file.bind(path) is None


def test_a_stale_socket_is_replaced(path: str, listener: socket.socket) -> None:
    """What refuses is stale, and may be unlinked."""
    listener.close()
    assert not socket_file.is_served(path)
    successor = socket_file.bind(path)
    assert successor
    with successor:
        assert socket_file.is_served(path)


def test_a_stale_socket_is_removed(path: str, listener: socket.socket) -> None:
    """The delete action removes it; a path with nothing there is fine."""
    listener.close()
    for _ in range(2):
        socket_file.unlink_if_stale(path)
        assert not os.path.exists(path)
    assert not socket_file.is_served(path)


def test_a_directory_that_is_missing_is_not_made_to_look_into_it(path: str) -> None:
    """Looking for a stale socket leaves no directory behind."""
    socket_file.unlink_if_stale(path)
    assert not os.path.exists(os.path.dirname(path))


def test_only_one_s_own_socket_is_unlinked(path: str, listener: socket.socket) -> None:
    """leaves-clean: the socket of a successor at the same path stays."""
    ours = socket_file.file_identity(path)
    # Somebody removes it; as long as we listen, the kernel gives its inode to no other.
    os.unlink(path)
    successor = socket_file.bind(path)
    assert successor
    with successor:
        socket_file.unlink_if_ours(path, ours)
        socket_file.unlink_if_ours(path, None)
        assert os.path.exists(path)
        socket_file.unlink_if_ours(path, socket_file.file_identity(path))
        assert not os.path.exists(path)


def test_a_path_that_cannot_be_bound_leaves_nothing(path: str) -> None:
    """An error is the caller's to hear; nothing is left open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        socket_file.bind(f"{path}{'x' * 100}")
    assert before == len(os.listdir("/proc/self/fd"))
    assert [] == os.listdir(os.path.dirname(path))


def test_the_lock_holds_others_off(path: str) -> None:
    """Between looking and acting nobody else may do either."""
    directory = os.path.dirname(path)
    entered = threading.Event()

    def other() -> None:
        with socket_file.locked(directory):
            entered.set()

    thread = threading.Thread(target=other)
    with socket_file.locked(directory):
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(5)
    thread.join()
    assert ["s"] == [p.name for p in Path(directory).parent.iterdir()]
    assert [] == os.listdir(directory)
