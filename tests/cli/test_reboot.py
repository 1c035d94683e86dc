"""A state directory on a disk, and a reboot: what `dunnage` makes of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests import reboot
from tests.cli.driver import wait_until

if TYPE_CHECKING:
    from tests.cli.driver import Cli

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("cli", ["ours"], indirect=True)
def test_tasks_of_an_earlier_boot(cli: Cli, runtime: str) -> None:
    """They are buried and told, once; a stranger with their pid is left alone."""
    run = ("-d", "--oci-runtime", runtime, "c", "--", "sleep", "1000")
    assert 0 == cli.run(*run).returncode
    wait_until(lambda: cli.topics() == ["create", "start"], "the start is said")
    with reboot.stranger() as other:
        _reboot(cli, runtime, other.pid)
        done = cli("ps")
        assert b"the shim of c has died; it ended with 137" in done.stderr
        assert ["create", "start", "exit", "delete"] == cli.topics()
        assert [] == cli.leftovers("c")
        assert 0 == cli.run(*run).returncode
        assert ["c"] == list(cli.ps())
        assert other.poll() is None
        assert 0 == cli("rm", "-f", "c").returncode
    assert [*["create", "start", "exit", "delete"] * 2] == cli.topics()
    assert [] == cli.leftovers("c")


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("cli", ["ours"], indirect=True)
def test_only_the_runtimes_notes_survive(cli: Cli, runtime: str) -> None:
    """Without a bundle nobody comes to bury it, and its id is free all the same."""
    run = ("-d", "--oci-runtime", runtime, "c", "--", "sleep", "1000")
    assert 0 == cli.run(*run).returncode
    with reboot.stranger() as other:
        _reboot(cli, runtime, other.pid)
        reboot.emptied(cli.places.bundles)
        assert (cli.places.runtime_root / cli.places.namespace / "c").exists()
        done = cli.run(*run)
        assert (0, b"") == (done.returncode, done.stderr)
        assert other.poll() is None
        assert 0 == cli("rm", "-f", "c").returncode
    assert [] == cli.leftovers("c")


def _reboot(cli: Cli, runtime: str, pid: int) -> None:
    """End all processes as a power cut does; have files name another's pid."""
    places = cli.places
    for shim in cli.shims():
        os.kill(shim, signal.SIGKILL)
    wait_until(lambda: not cli.shims(), "the shims are gone")
    reboot.end_cgroup(f"{places.cgroup}/c")
    reboot.without_mounts(places.state)
    bundle = places.bundles / "c"
    Path((bundle / "address").read_text().removeprefix("unix://")).unlink()
    reboot.in_bundle(bundle, pid)
    state = places.runtime_root / places.namespace / "c"
    reboot.give_pid(state, runtime, pid)
    reboot.age(state)
