"""Unread output under a real containerd, whose client reads the fifo late."""

from __future__ import annotations

import array
import fcntl
import os
import termios
from pathlib import Path

import pytest

from .daemon import IMAGE, Containerd, wait_for
from .test_containerd import EACH_WAY, nothing_is_left

pytestmark = pytest.mark.slow

FULL = 60_000
"""A fifo that takes no more has at least so many bytes."""


def unread(fd: int) -> int:
    """Return how many bytes a fifo has."""
    answer = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, answer)
    return answer[0]


@EACH_WAY
@pytest.mark.feature("unread output outlives the container")
def test_it_is_read_after_the_container(
    containerd: Containerd, way: list[str], tmp_path: Path
) -> None:
    """output-held: the container is deleted and made anew before its output is read."""
    fifos = ["--fifo-dir", str(tmp_path)]
    command = [IMAGE, "c", "seq", "1", "100000000"]
    containerd.ctr("run", "-d", *fifos, *way, *command)
    (out,) = tmp_path.glob("*/c-stdout")
    fd = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.set_blocking(fd, True)
        got = b""
        while len(got) < 1 << 18:
            got += os.read(fd, 1 << 16)
        wait_for("a full fifo", lambda: unread(fd) > FULL)
        containerd.ctr("task", "kill", "--signal", "KILL", "c")
        wait_for("the end", lambda: b"STOPPED" in containerd.ctr("task", "ls").stdout)
        # It says how the container ended by its own status.
        containerd.ctr("task", "delete", "c", check=False)
        wait_for("the delete", lambda: not list(containerd.bundles.iterdir()))
        containerd.ctr("container", "delete", "c")
        done = containerd.ctr("run", "--rm", *way, IMAGE, "c", "echo", "successor")
        assert done.stdout == b"successor\n"
        before = len(got)
        while data := os.read(fd, 1 << 16):
            got += data
    finally:
        os.close(fd)
    # ctr has read a little of it before it left.
    _, first, *lines, _ = got.split(b"\n")
    assert [b"%d" % (int(first) + i + 1) for i in range(len(lines))] == lines
    assert len(got) - before > FULL
    nothing_is_left(containerd)
