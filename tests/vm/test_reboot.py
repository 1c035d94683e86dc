"""The guest's own reboot, as by a power cut: half before it, half after.

script/test-vm has the guest run the first test in one boot, which ends with it, and the
second in the next one; all that a disk can keep is on a disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tests.cli.driver import Cli, wait_until
from tests.machine import pids_with
from tests.peers.daemon import (
    IMAGE,
    SHIM,
    Containerd,
    image_archive,
    path_with_shim,
    wait_for,
)
from tests.shim.harness import make_rootfs

from dunnage.host.procs.identity import Identity
from dunnage.manager.places import Places

pytestmark = pytest.mark.slow

BOOT = os.environ["DUNNAGE_BOOT"]
PLACE = Path("/mnt/reboot")
NOTES = PLACE / "notes.json"
NAMESPACE = "dn-reboot"
RUNTIMES = ("runc", "crun")
RUNS = [f"runs-{runtime}" for runtime in RUNTIMES]
ENDED = [f"ended-{runtime}" for runtime in RUNTIMES]

before_it = pytest.mark.skipif(BOOT != "1", reason="the guest has been booted again")
after_it = pytest.mark.skipif(BOOT != "2", reason="the guest will be booted again")

Strangers: TypeAlias = dict[int, subprocess.Popen[bytes]]


def daemon() -> Containerd:
    """Return containerd with root and state on the disk, the same in both boots."""
    path = path_with_shim(PLACE / "bin")
    found = Containerd(PLACE, "containerd-1.7", path, environment={})
    found.namespace = NAMESPACE
    found.bundles = found.bundles.with_name(NAMESPACE)
    return found


def manager() -> Cli:
    """Return our manager with all that it keeps on the disk."""
    places = Places.make(NAMESPACE, str(PLACE / "state"), str(PLACE / "kept"))
    return Cli(str(SHIM), PLACE / "rootfs", places)


def states(containerd: Containerd) -> dict[str, str]:
    """Return what ctr says of each task."""
    lines = containerd.ctr("task", "ls").stdout.decode().splitlines()[1:]
    return {line.split()[0]: line.split()[-1] for line in lines}


def stopped(containerd: Containerd, name: str) -> None:
    """Wait until a task has stopped."""
    wait_for("the exit", lambda: states(containerd)[name] == "STOPPED")


@before_it
def test_the_last_that_this_boot_sees() -> None:
    """Tasks that run and that have stopped, then no power any more."""
    containerd, cli = daemon(), manager()
    containerd.start()
    image_archive(PLACE / "busybox.tar")
    containerd.ctr("images", "import", str(PLACE / "busybox.tar"))
    noted: dict[str, Any] = {"boot": Identity.mine().boot_id, "pids": []}
    for names, args in ((RUNS, ("sleep", "1000")), (ENDED, ("true",))):
        for name, runtime in zip(names, RUNTIMES, strict=True):
            words = ["--runc-binary", runtime, "--runc-root", str(PLACE / "runtime")]
            containerd.ctr("run", "-d", *words, IMAGE, name, *args)
            init = containerd.bundles / name / "init.pid"
            noted["pids"] += [int(init.read_text()), *pids_with(f"-id\0{name}\0")]
    for name in ENDED:
        stopped(containerd, name)
    make_rootfs(PLACE / "rootfs")
    assert 0 == cli.run("-d", "ours", "--", "sleep", "1000").returncode
    wait_until(lambda: cli.topics() == ["create", "start"], "the start is said")
    NOTES.write_text(json.dumps(noted))
    os.sync()
    Path("/proc/sysrq-trigger").write_text("b")
    time.sleep(60)
    pytest.fail("the guest has survived its reset")


@pytest.fixture
def strangers() -> Iterator[Strangers]:
    """Processes that have pids of before, as many as are free."""
    noted = json.loads(NOTES.read_text())
    assert noted["boot"] != Identity.mine().boot_id
    found: Strangers = {}
    for pid in noted["pids"]:
        if not Path(f"/proc/{pid}").exists():
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
            process = subprocess.Popen(["sleep", "1000"])
            found[process.pid] = process
    assert set(noted["pids"]) & set(found), "no pid is used again"
    yield found
    for process in found.values():
        process.kill()
        process.wait()


@after_it
def test_the_first_that_the_next_boot_sees(strangers: Strangers) -> None:
    """What was is told as ended, its ids are free; no stranger is taken for it."""
    containerd, cli = daemon(), manager()
    containerd.start()
    try:
        assert {} == states(containerd)
        assert [] == sorted(os.listdir(containerd.bundles))
        for name in (*RUNS, *ENDED):
            containerd.ctr("task", "start", "-d", name)
        for name in RUNS:
            assert "RUNNING" == states(containerd)[name]
            containerd.ctr("task", "kill", "-s", "KILL", name)
        for name in (*RUNS, *ENDED):
            stopped(containerd, name)
            said = containerd.ctr("task", "delete", name, check=False).stderr
            assert (b"exit code 137" in said) == (name in RUNS)
            containerd.ctr("container", "delete", name)
        assert [] == sorted(os.listdir(PLACE / "runtime" / NAMESPACE))
        said = cli("ps").stderr
        assert b"the shim of ours has died; it ended with 137" in said
        assert ["create", "start", "exit", "delete"] == cli.topics()
        assert 0 == cli.run("--rm", "ours", "--", "true").returncode
        assert all(process.poll() is None for process in strangers.values())
    finally:
        containerd.close()
