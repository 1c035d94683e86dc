"""Ending a cgroup, for real."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.machine import cgroups_named, with_freezer

from dunnage.host.cgroups import directories, kill_members, members, remove
from dunnage.host.cgroups import group as module


@pytest.fixture
def group() -> Iterator[list[str]]:
    """A cgroup that can be frozen, with another in it."""
    path = f"/dunnage-test-{secrets.token_hex(4)}"
    top = with_freezer(directories(path))
    os.makedirs(f"{top}/in")
    yield [top]
    for found in cgroups_named(path):
        for directory in (found / "in", found):
            with contextlib.suppress(OSError):
                directory.rmdir()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def join(process: subprocess.Popen[bytes], group: str) -> None:
    """Move a process into a cgroup."""
    Path(group, "cgroup.procs").write_text(str(process.pid))


@pytest.mark.parametrize("frozen", [False, True])
def test_members_are_killed_and_it_goes(
    group: list[str], process: subprocess.Popen[bytes], frozen: bool
) -> None:
    """Those in the cgroups in it, too, and frozen ones."""
    join(process, f"{group[0]}/in")
    if frozen:
        is_v1 = Path(group[0], "freezer.state").exists()
        file, word = ("freezer.state", "FROZEN") if is_v1 else ("cgroup.freeze", "1")
        Path(group[0], file).write_text(word)
    assert {process.pid} == members(group)
    assert kill_members(group)
    assert -9 == process.wait(5)
    assert [] == remove(group)
    assert not Path(group[0]).exists()
    assert kill_members(group)
    assert [] == remove(group)


def test_who_left_meanwhile_is_spared(
    group: list[str],
    process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """members-only: a pid that is no member any more when it is held is not killed."""
    looks = iter([{process.pid}, set(), set()])
    monkeypatch.setattr(module, "members", lambda _: next(looks))
    assert kill_members(group)
    assert process.poll() is None


def test_what_is_not_empty_stays(
    group: list[str],
    process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cgroup with a process in it is not removed, and is named."""
    monkeypatch.setattr(module, "_REMOVE_LIMIT_S", 0.05)
    join(process, group[0])
    assert group == remove(group)
    assert process.poll() is None
    assert kill_members(group)
