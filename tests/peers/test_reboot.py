"""A containerd whose state, or whose runtimes' state, is on a disk; and a reboot."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests import reboot
from tests.machine import end_forkservers, pids_with

from .daemon import FORKSERVER, IMAGE, Containerd, wait_for
from .test_containerd import nothing_is_left

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("survive", ["bundles-too", "runtime-root"])
def test_a_reboot(containerd: Containerd, runtime: str, survive: str) -> None:
    """What was is told as ended, and starts again under its id; no stranger dies."""
    root = containerd.directory / "runtime-root"
    words = ["--runc-binary", runtime, "--runc-root", str(root)]
    containerd.ctr("run", "-d", *words, IMAGE, "c", "sleep", "1000")
    state = root / containerd.namespace / "c"
    bundle = containerd.bundles / "c"
    with reboot.stranger() as other:
        containerd.kill()
        _end_everything(containerd)
        reboot.in_bundle(bundle, other.pid)
        reboot.give_pid(state, runtime, other.pid)
        reboot.age(state)
        if survive == "runtime-root":
            reboot.emptied(containerd.bundles)
        containerd.start()
        assert [] == _names(containerd.bundles)
        assert (survive == "runtime-root") == state.exists()
        listed = containerd.ctr("task", "ls").stdout.decode()
        assert ["TASK"] == [line.split()[0] for line in listed.splitlines()]

        containerd.ctr("task", "start", "-d", "c")
        assert b"RUNNING" in containerd.ctr("task", "ls").stdout
        assert other.poll() is None
        containerd.ctr("task", "kill", "-s", "KILL", "c")
        wait_for("the exit", lambda: b"STOPPED" in containerd.ctr("task", "ls").stdout)
        assert b"exit code 137" in containerd.ctr("task", "delete", "c").stderr
        assert other.poll() is None
    containerd.ctr("container", "delete", "c")
    nothing_is_left(containerd)
    assert [] == _names(root / containerd.namespace)


def _names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.exists() else []


def _end_everything(daemon: Containerd) -> None:
    """Leave what a power cut leaves on a disk, and nothing else."""
    for pid in pids_with(f"-namespace\0{daemon.namespace}"):
        os.kill(pid, signal.SIGKILL)
    end_forkservers(Path(os.environ[FORKSERVER]))
    reboot.end_cgroup(f"/{daemon.namespace}/c")
    reboot.without_mounts(daemon.bundles)
    address = (daemon.bundles / "c/address").read_text()
    Path(address.removeprefix("unix://")).unlink()
