"""A server that is missing is started once, whoever else comes."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .scene import ARGV, COLD, Scene, until

# Python's own, whatever it inherits.
PYTHON_IGNORES = 1 << 12 | 1 << 24


def test_a_server_is_started_as_one(scene: Scene) -> None:
    """Its words, its few variables, its session, its descriptors, its signals."""
    scene.mode("serve")
    scene.more = {"PYTHONHASHSEED": "1", "MALLOC_X": "\n", "SECRET": "s"}
    held = os.open(scene.directory, os.O_RDONLY)
    masking = ["sh", "-c", 'trap "" HUP INT USR1; exec "$@"', "-"]
    done = scene.run(*ARGV, prefix=masking, pass_fds=[held], cwd=scene.directory)
    os.close(held)
    assert (7, b"out", b"err") == (done.returncode, done.stdout, done.stderr)
    (told,) = scene.calls("server")
    place = scene.place()
    assert [
        *("-I", "-m", "dunnage.shim.forkserver", "--directory", str(place)),
        *("--code", scene.code, "--lock-fd", "3"),
    ] == [bytes.fromhex(word).decode() for word in told["argv"]]
    entries = [bytes.fromhex(entry) for entry in told["environ"]]
    ours = {b"PYTHONHASHSEED=1", b"MALLOC_X=\n"}
    # Python sets the locale for itself.
    assert ours == {entry for entry in entries if not entry.startswith(b"LC_CTYPE=")}
    assert "/" == told["cwd"]
    assert told["pid"] != told["sid"] != os.getsid(0)
    assert told["sid"] == told["pgid"]
    assert ["/dev/null"] * 3 == [told["fds"][fd] for fd in "012"]
    assert str(place) == told["fds"]["3"]
    # The script itself is open, and maybe the directory being listed.
    assert not {str(scene.directory)} & set(told["fds"].values())
    assert not int(told["status"]["SigIgn"], 16) & ~PYTHON_IGNORES
    assert not int(told["status"]["SigBlk"], 16)


def test_the_server_holds_the_lock(scene: Scene) -> None:
    """As long as it lives, and not longer; we hold nothing of it."""
    scene.mode("serve")
    scene.run(*ARGV)
    fd = os.open(scene.place(), os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(scene.calls("server")[0]["pid"], 9)
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def racing(scene: Scene, count: int) -> list[subprocess.Popen[bytes]]:
    """Start so many launchers at once."""
    return [
        subprocess.Popen(
            [scene.launcher, *ARGV], env=scene.env, stdin=-3, stdout=-1, stderr=-1
        )
        for _ in range(count)
    ]


def test_of_many_one_starts_a_server(scene: Scene) -> None:
    """Twenty at once: one server, and it serves them all."""
    scene.mode("serve")
    launchers = racing(scene, 20)
    said = [each.communicate(timeout=30) for each in launchers]
    assert [(b"out", b"err")] * 20 == said
    assert [7] * 20 == [each.returncode for each in launchers]
    assert len(scene.calls("server")) == 1


def test_a_dead_server_is_replaced(scene: Scene) -> None:
    """Its socket stays behind, and refuses; its lock does not."""
    place = scene.place()
    scene.mode("serve")
    scene.run(*ARGV)
    os.kill(scene.calls("server")[0]["pid"], 9)
    fd = os.open(place, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.close(fd)
    scene.mode("die")  # the stand-in does not clear the old socket away
    assert scene.run(*ARGV).returncode == COLD
    assert len(scene.calls("server")) == 2


def test_a_server_that_dies_young_is_not_waited_for(scene: Scene) -> None:
    """Where it cannot come up, everybody goes cold; this launcher's limit is long."""
    launchers = racing(scene, 5)
    for each in launchers:
        each.communicate(timeout=15)
    assert [COLD] * 5 == [each.returncode for each in launchers]


def test_a_server_that_does_not_come_is_given_up(hasty: Scene) -> None:
    """It lives and holds the lock, and does not listen."""
    hasty.mode("hold")
    done = hasty.run(*ARGV, input=b"options")
    assert (COLD, b"cold") == (done.returncode, done.stdout)
    assert b"options".hex() == hasty.cold()["stdin"]


def test_a_place_that_goes_away_is_made_anew(scene: Scene) -> None:
    """A server that leaves takes its directory along; who waited there starts one."""
    scene.mode("serve")
    place = scene.place()
    fd = os.open(place, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (launcher,) = racing(scene, 1)
    until(lambda: _has_open(launcher.pid, place))
    shutil.rmtree(place)
    os.close(fd)
    assert (b"out", b"err") == launcher.communicate(timeout=30)
    assert len(scene.calls("server")) == 1


def _has_open(pid: int, path: Path) -> bool:
    try:
        fds = list(Path(f"/proc/{pid}/fd").iterdir())
        return str(path) in {os.readlink(fd) for fd in fds}
    except OSError:
        return False
