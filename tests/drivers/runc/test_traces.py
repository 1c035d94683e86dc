"""What leads to a dead shim's container, and never to a stranger."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.machine import cgroups_named, with_freezer

from dunnage.bootstrap import bundle
from dunnage.drivers.runc import Options, traces
from dunnage.host import cgroups
from dunnage.host.procs.identity import Identity, group_of

Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a process in a group and a directory; it is ended."""
    started = []

    def start(cwd: Path, group: int = 0) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "1000"], process_group=group, cwd=cwd)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def cgroup() -> Iterator[str]:
    """A path that a spec may name as its cgroup."""
    path = f"/dunnage-test-{secrets.token_hex(4)}"
    yield path
    for group in cgroups_named(path):
        group.rmdir()


def dead_shim(pid: int, **changes: Any) -> Identity:
    """Return the identity of a process that had this pid once."""
    return Identity.mine()._replace(**{"pid": pid, "started": 1, **changes})


def test_what_a_dead_shim_had_called_is_ended(tmp_path: Path, spawn: Spawn) -> None:
    """Those of its group that work in the bundle, and nobody who is only one of it."""
    elsewhere = tmp_path / "elsewhere"
    inside = tmp_path / "bundle"
    elsewhere.mkdir()
    (inside / "rootfs").mkdir(parents=True)
    leader = spawn(elsewhere)
    mine = spawn(inside / "rootfs", leader.pid)
    others_call = spawn(elsewhere, leader.pid)
    visitor = spawn(inside)
    shim = dead_shim(leader.pid)
    assert traces.Traces(shim).end_processes(str(inside))
    assert -9 == mine.wait(5)
    for innocent in (leader, others_call, visitor):
        assert innocent.poll() is None


@pytest.mark.parametrize("changes", [{"boot_id": "another"}, {"started": None}])
def test_of_another_boot_or_a_living_shim_nothing_is_ended(
    tmp_path: Path, spawn: Spawn, changes: dict[str, Any]
) -> None:
    """A note of another boot proves nothing, and a living shim ends its own calls."""
    process = spawn(tmp_path)
    shim = dead_shim(process.pid, **changes)
    if shim.started is None:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        shim = shim._replace(started=int(stat.rpartition(")")[2].split()[19]))
        assert shim.is_alive()
    found = traces.Traces(shim)
    assert group_of(process.pid) == shim.pid
    assert found.end_processes(str(tmp_path))
    assert [] == found.remove_cgroups()
    assert process.poll() is None


def test_a_new_cgroup_is_the_containers(
    tmp_path: Path, spawn: Spawn, cgroup: str
) -> None:
    """It is noted before it is there; then its members are ended, and it goes."""
    traces.write(str(tmp_path), Options(), cgroup)
    found = traces.read(str(tmp_path))
    assert found is not None
    assert os.getpid() == found.shim.pid
    top = with_freezer(found.cgroups)
    os.mkdir(top)
    process = spawn(tmp_path)
    Path(top, "cgroup.procs").write_text(str(process.pid))
    assert found.end_processes(str(tmp_path))
    assert -9 == process.wait(5)
    assert [] == found.remove_cgroups()
    assert [] == cgroups_named(cgroup)


def test_a_cgroup_with_others_in_it_is_not_noted(
    tmp_path: Path, spawn: Spawn, cgroup: str
) -> None:
    """Who was there before the container does not die with it."""
    top = Path(with_freezer(cgroups.directories(cgroup)))
    top.mkdir()
    process = spawn(tmp_path)
    (top / "cgroup.procs").write_text(str(process.pid))
    traces.write(str(tmp_path), Options(), cgroup)
    found = traces.read(str(tmp_path))
    process.kill()
    process.wait()
    assert found is not None
    assert found.cgroups == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"shim": 1, "cgroups": []}',
        '{"shim": {"pid": 1, "started": 1, "boot_id": "x"}, "cgroups": []}',
        '{"shim": {"pid": 7, "started": "1", "boot_id": "x"}, "cgroups": []}',
        '{"shim": {"pid": 7, "started": 1, "boot_id": "x"}, "cgroups": [5]}',
    ],
)
def test_a_broken_note_is_none(tmp_path: Path, text: str) -> None:
    """What makes no sense leads to nobody."""
    (tmp_path / bundle.TRACES).write_text(text)
    assert traces.read(str(tmp_path)) is None


def test_it_can_be_forgotten(tmp_path: Path) -> None:
    """A container that was deleted leaves no way to its cgroup, which may be reused."""
    traces.write(str(tmp_path), Options(), "")
    traces.forget(str(tmp_path))
    traces.forget(str(tmp_path))
    assert traces.read(str(tmp_path)) is None
