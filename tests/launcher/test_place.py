"""Where servers are: a directory that is ours alone, or nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .scene import ARGV, COLD, Scene, answers


def test_it_is_made_for_us_alone(scene: Scene) -> None:
    """Both directories have mode 0700, those above them what others expect."""
    scene.servers = scene.directory / "above/more/f"
    scene.run(*ARGV, umask=0o777 & ~0o700 & ~0o055)
    (own,) = scene.servers.iterdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (scene.servers, own)]
    assert [0o700, 0o700] == modes
    assert stat.S_IMODE(scene.servers.parent.stat().st_mode) == 0o755


def test_an_umask_takes_nothing_from_us(scene: Scene) -> None:
    """Whatever the umask is, its owner can use the directory."""
    scene.mode("serve")
    done = scene.run(*ARGV, umask=0o377)
    assert done.returncode in {COLD, 7}
    assert stat.S_IMODE(scene.servers.stat().st_mode) == 0o700


@pytest.mark.parametrize("words", [("delete",), ("-v",), ("-info",)])
def test_only_start_makes_anything(scene: Scene, words: tuple[str, ...]) -> None:
    """The others are not worth a server."""
    assert scene.run(*words).returncode == COLD
    assert not scene.servers.exists()
    scene.place().rmdir()
    assert scene.run(*words).returncode == COLD
    assert not list(scene.servers.iterdir())
    assert not scene.calls("server")


@pytest.mark.parametrize("told", ["off", "relative/f", "./f", "/" + "x" * 5000])
def test_a_variable_forbids_servers(scene: Scene, told: str) -> None:
    """By its name, and by what is no absolute path that can be."""
    scene.servers = Path(told)
    done = scene.run(*ARGV, input=b"options", cwd=scene.directory)
    assert (COLD, b"cold") == (done.returncode, done.stdout)
    assert b"options".hex() == scene.cold()["stdin"]
    assert not scene.calls("server")
    assert not (scene.directory / "relative").exists()


def to_others(path: Path) -> None:
    """Let others in."""
    path.chmod(0o755)


def of_another(path: Path) -> None:
    """Give it away."""
    os.chown(path, 65534, 65534)


def elsewhere(path: Path) -> None:
    """Put a symbolic link in its place."""
    path.rename(path.parent / "real")
    path.symlink_to(path.parent / "real")


@pytest.mark.parametrize("spoil", [to_others, of_another, elsewhere])
@pytest.mark.parametrize("above", [True, False])
def test_what_is_not_ours_alone_is_not_believed(
    scene: Scene, spoil: Callable[[Path], None], above: bool
) -> None:
    """A server there is not even asked."""
    with scene.server(answers()) as heard:
        where = scene.place()
        spoil(where.parent if above else where)
        done = scene.run(*ARGV)
    assert (COLD, b"cold") == (done.returncode, done.stdout)
    assert not heard
    assert not scene.calls("server")


def test_a_server_of_another_user_is_not_believed(scene: Scene) -> None:
    """The uid of who listens is looked at, whatever the directory says."""
    listening = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX);"
        "s.bind(sys.argv[1]); os.setresuid(65534, 65534, 65534); s.listen();"
        "print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-ISc", listening, f"{scene.place()}/s"]
    with subprocess.Popen(argv, stdin=-1, stdout=-1) as other:
        assert other.stdout
        assert other.stdout.readline() == b"\n"
        assert scene.run(*ARGV).returncode == COLD
        other.communicate()
    assert not scene.calls("server")


def test_a_path_may_be_long(scene: Scene) -> None:
    """Longer than the name of a socket can be."""
    scene.servers = scene.directory / ("x" * 150)
    with scene.server(answers()):
        assert scene.run(*ARGV).returncode == 7


def test_without_proc_it_is_cold(scene: Scene) -> None:
    """Nobody can say there who we are; the interpreter is found all the same."""
    hiding = ["unshare", "--mount", "sh", "-c", 'umount -l /proc; exec "$@"', "-"]
    done = scene.run(*ARGV, prefix=hiding)
    assert (COLD, b"cold") == (done.returncode, done.stdout)
    assert not scene.calls("server")
