"""OOM kills in real cgroups: told once, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.machine import IS_CGROUP_V2

from dunnage.host.cgroups import OomKills, of_process
from dunnage.host.cgroups import kills as module

LIMIT_S = 10.0
LIMIT = 8 << 20
CONTROLLER = "" if IS_CGROUP_V2 else "memory"
ONLY_V1 = pytest.mark.skipif(IS_CGROUP_V2, reason="cgroups are v2 here")


@pytest.fixture
def group() -> Iterator[Path]:
    """Return a cgroup with a limit of memory, and another in it."""
    top = Path("/sys/fs/cgroup") / CONTROLLER
    limits = {"memory.limit_in_bytes": LIMIT, "memory.memsw.limit_in_bytes": LIMIT}
    if IS_CGROUP_V2:
        (top / "cgroup.subtree_control").write_text("+memory")
        limits = {"memory.max": LIMIT, "memory.swap.max": 0}
    path = top / f"dunnage-test-{secrets.token_hex(4)}"
    (path / "in").mkdir(parents=True)
    for name, limit in limits.items():
        (path / name).write_text(str(limit))
    yield path
    for each in (path / "in", path):
        with contextlib.suppress(FileNotFoundError):
            each.rmdir()


@pytest.fixture
def unified(tmp_path: Path) -> Iterator[Path]:
    """Return a cgroup of v2."""
    subprocess.run(["mount", "-t", "cgroup2", "none", str(tmp_path)], check=True)
    path = tmp_path / f"dunnage-test-{secrets.token_hex(4)}"
    try:
        path.mkdir()
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
        subprocess.run(["umount", str(tmp_path)], check=True)


def kill_one(group: Path) -> None:
    """Have something killed in a cgroup."""
    join = f"echo $$ >{group}/cgroup.procs; exec tail /dev/zero"
    assert -9 == subprocess.run(["busybox", "sh", "-c", join], check=False).returncode


def watched(
    group: Path, *, is_new: bool = True, controller: str = CONTROLLER
) -> OomKills:
    """Return the kills in a cgroup."""
    kills = OomKills()
    kills.watch({controller: str(group)}, is_new=is_new)
    return kills


async def until(told: list[int], count: int) -> None:
    """Wait until so many kills were told."""
    async with asyncio.timeout(LIMIT_S):
        while len(told) < count:
            await asyncio.sleep(0.001)


def open_fds() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("inside", ["", "in"])
def test_news(group: Path, inside: str) -> None:
    """Each is told without being asked, also in a cgroup within; then all is closed."""

    async def main() -> None:
        before = open_fds()
        kills = watched(group)
        told: list[int] = []
        kills.listen(lambda: told.append(1))
        for count in (1, 2):
            await asyncio.to_thread(kill_one, group / inside)
            await until(told, count)
        kills.look()
        assert 2 == len(told)
        kills.close()
        kills.close()
        assert before == open_fds()

    asyncio.run(main())


def test_a_look_needs_no_news(group: Path) -> None:
    """What was counted is told by a look, before the loop has turned."""

    async def main() -> None:
        kills = watched(group)
        told: list[int] = []
        kills.listen(lambda: told.append(1))
        kill_one(group)
        assert [] == told
        kills.look()
        assert [1] == told
        kills.close()

    asyncio.run(main())


@pytest.mark.parametrize(("is_new", "expected"), [(True, [1]), (False, [])])
def test_what_was_before(group: Path, is_new: bool, expected: list[int]) -> None:
    """Kills that were counted before are news only in a cgroup that is new."""

    async def main() -> None:
        kill_one(group)
        kills = watched(group, is_new=is_new)
        told: list[int] = []
        kills.listen(lambda: told.append(1))
        assert expected == told
        kills.close()

    asyncio.run(main())


@ONLY_V1
def test_a_removal_is_no_kill(group: Path) -> None:
    """It is news to v1, and ends the watching."""

    async def main() -> None:
        before = open_fds()
        kills = watched(group)
        told: list[int] = []
        kills.listen(lambda: told.append(1))
        (group / "in").rmdir()
        group.rmdir()
        async with asyncio.timeout(LIMIT_S):
            while open_fds() > before:
                await asyncio.sleep(0.01)
        kills.look()
        assert [] == told
        kills.close()

    asyncio.run(main())


@ONLY_V1
def test_a_kernel_without_a_count(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 4.13 news are all there is; a removal is told from them."""
    monkeypatch.setattr(module, "_COUNT", "no such line")

    async def main() -> None:
        kills = watched(group)
        told: list[int] = []
        kills.listen(lambda: told.append(1))
        await asyncio.to_thread(kill_one, group)
        await until(told, 1)
        (group / "in").rmdir()
        group.rmdir()
        await asyncio.sleep(0.2)
        assert 1 == len(told)
        kills.close()

    asyncio.run(main())


def test_news_of_v2(unified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that tells of itself as ``memory.events`` does; at rest nothing wakes."""
    monkeypatch.setattr(module, "_V2", "cgroup.events")
    monkeypatch.setattr(module, "_COUNT", "populated")

    async def main() -> None:
        before = open_fds()
        kills = watched(unified, controller="")
        looks: list[int] = []
        look = kills.look

        def counted() -> None:
            looks.append(1)
            look()

        monkeypatch.setattr(kills, "look", counted)
        told: list[int] = []
        kills.listen(lambda: told.append(1))
        for count in (1, 2):
            process = subprocess.Popen(["sleep", "1000"])
            try:
                (unified / "cgroup.procs").write_text(str(process.pid))
                await until(told, count)
            finally:
                process.kill()
                process.wait()
            async with asyncio.timeout(LIMIT_S):  # until it is told that it is empty
                while len(looks) < 1 + 2 * count:
                    await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert (2, 5) == (len(told), len(looks))
        unified.rmdir()
        kills.look()
        assert 2 == len(told)
        assert before == open_fds()
        kills.close()

    asyncio.run(main())


def test_there_is_none(tmp_path: Path) -> None:
    """Without a memory controller nothing is watched, and nothing held."""
    before = open_fds()
    for directories in ({}, {"memory": str(tmp_path)}, {"": str(tmp_path)}):
        kills = OomKills()
        with pytest.raises(FileNotFoundError):
            kills.watch(directories, is_new=True)
        kills.listen(lambda: None)
        kills.look()
        kills.close()
    assert before == open_fds()


def test_where_it_is(group: Path) -> None:
    """The kernel says it of the living; of others it is said to us, v1 at least."""
    assert CONTROLLER not in of_process(os.getpid())  # it is ours
    path = f"/{group.name}"
    with subprocess.Popen(["sleep", "1000"]) as process:
        (group / "cgroup.procs").write_text(str(process.pid))
        assert str(group) == of_process(process.pid)[CONTROLLER]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert IS_CGROUP_V2 or CONTROLLER not in of_process(process.pid)
        assert str(group) == of_process(process.pid, path)[CONTROLLER]
    assert str(group) == of_process(process.pid, path)[CONTROLLER]
