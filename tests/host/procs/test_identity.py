"""One process and no other."""

from __future__ import annotations

import os
import subprocess

import pytest

from dunnage.host.procs.identity import Identity, group_of


def test_we_are_alive() -> None:
    """Our own identity is that of a living process; another's with our pid is not."""
    mine = Identity.mine()
    assert os.getpid() == mine.pid
    assert mine.is_alive()
    assert not mine._replace(started=mine.started + 1).is_alive()
    assert not mine._replace(boot_id="another").is_alive()
    assert not mine._replace(boot_id="another").is_of_this_boot()


def test_a_zombie_is_not_alive() -> None:
    """Nor is a process that was reaped, which has no group either."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        started = int(file.read().rpartition(")")[2].split()[19])
    dead = Identity.mine()._replace(pid=pid, started=started)
    assert not dead.is_alive()
    os.waitpid(pid, 0)
    assert not dead.is_alive()
    with pytest.raises(OSError, match="No such"):
        group_of(pid)


def test_the_group_is_told() -> None:
    """Of a process in a group of its own it is its pid."""
    with subprocess.Popen(["sleep", "1000"], process_group=0) as process:
        assert process.pid == group_of(process.pid)
        process.kill()
