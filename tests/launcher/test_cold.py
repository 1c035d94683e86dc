"""Without a server the shim's program takes the launcher's place."""

from __future__ import annotations

import os

import pytest

from .scene import ARGV, COLD, Scene

OFF = b"DUNNAGE_FORKSERVER=off"


def test_it_gets_all_that_we_got(scene: Scene) -> None:
    """Words, entries, stdin, descriptors; and our name in a variable, once."""
    odd = [b"\xff\xfe", b"", b"-x=\n"]
    entries = [OFF, b"A=\xff", b"DUNNAGE_ARGV0=old", b"EMPTY="]
    done = scene.run_odd([b"dir/na\xffme", b"start", *odd], entries, b"options")
    assert (COLD, b"cold", b"") == (done.returncode, done.stdout, done.stderr)
    told = scene.cold()
    given = [b"-I", b"-m", b"dunnage.shim.main", b"start", *odd]
    assert given == [bytes.fromhex(word) for word in told["argv"]]
    got = {bytes.fromhex(entry) for entry in told["environ"]}
    mine = {OFF, b"A=\xff", b"EMPTY=", b"DUNNAGE_ARGV0=dir/na\xffme"}
    assert mine == {entry for entry in got if not entry.startswith(b"LC_CTYPE=")}
    assert b"options".hex() == told["stdin"]


@pytest.mark.parametrize("size", [0, 1, 65_537, (10 << 20) + 1])
def test_what_was_read_can_be_read_again(scene: Scene, size: int) -> None:
    """The launcher has read stdin for a server that then did not come up."""
    done = scene.run(*ARGV, input=bytes(size))
    assert (COLD, b"cold", b"") == (done.returncode, done.stdout, done.stderr)
    told = scene.cold()
    assert size * 2 == len(told["stdin"])
    assert not any("forkserver" in name for name in told["fds"].values())


def test_nothing_of_ours_is_left_open(scene: Scene) -> None:
    """What was open for us is open for it, and nothing else."""
    held = os.open(scene.directory, os.O_RDONLY)
    scene.run(*ARGV, input=b"options", pass_fds=[held])
    os.close(held)
    fds = scene.cold()["fds"]
    known = {"0", "1", "2", str(held)}
    ours = {name for fd, name in fds.items() if fd not in known}
    # The script, which Python reads; not our sockets, nor the place of servers.
    assert ours <= {str(scene.bin / "python3")}


def test_the_interpreter_is_beside_us(scene: Scene) -> None:
    """By whatever name and link we are called."""
    link = scene.directory / "containerd-shim-runc-v2"
    link.symlink_to(scene.launcher)
    argv = [b"containerd-shim-runc-v2", b"start"]
    scene.launcher = link
    assert scene.run_odd(argv, [OFF]).returncode == COLD
    told = scene.cold()["environ"]
    assert b"DUNNAGE_ARGV0=containerd-shim-runc-v2".hex() in told


def test_else_it_is_the_systems(scene: Scene) -> None:
    """Where none is beside us, the user's own may have the package."""
    (scene.bin / "python3").unlink()
    done = scene.run("start", env={"DUNNAGE_FORKSERVER": "off"})
    assert done.returncode == 1
    assert done.stderr.startswith(b"/usr/bin/python3: ")


def test_an_interpreter_that_does_not_run_is_told(scene: Scene) -> None:
    """One line that the daemon shows to a user."""
    python = scene.bin / "python3"
    python.write_text("#!/nowhere/at/all\n")
    done = scene.run("start", env={"DUNNAGE_FORKSERVER": "off"})
    assert done.returncode == 1
    expected = f"containerd-shim-dunnage-v2: {python}: No such file or directory"
    assert expected.encode() == done.stderr
