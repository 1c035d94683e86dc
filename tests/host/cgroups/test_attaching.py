"""Tests of `dunnage.host.cgroups.attaching`: a process that attaches itself."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dunnage.host.cgroups import attaching, paths

LIMIT_S = 5.0


@pytest.fixture(autouse=True)
def told_by_nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with none, and end those that a test has begun."""
    telling: list[int] = []
    monkeypatch.setattr(attaching, "_telling", telling)
    yield
    for fd in telling:
        os.close(fd)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for our cgroup: the file tells what was written."""
    (tmp_path / "cgroup.procs").touch()
    monkeypatch.setattr(paths, "own", lambda: str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def begun(*unwanted: int) -> Iterator[int]:
    """Have one until the end of the block."""
    pid = attaching.begin("of a test", unwanted)
    assert pid
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def written(place: Path) -> str:
    """Return what was written."""
    return (place / "cgroup.procs").read_text()


def is_asleep(pid: int) -> bool:
    """Whether it waits to be told something."""
    return "pipe" in Path(f"/proc/{pid}/wchan").read_text()


def test_it_attaches_itself_for_a_while_when_it_is_told(place: Path) -> None:
    """The kernel takes a 0 for who writes it; again and again, and no longer."""
    with begun() as pid:
        until(lambda: is_asleep(pid))
        assert not written(place)
        attaching.expect()
        until(lambda: bool(written(place)) and is_asleep(pid))
        assert "0" * attaching.TURNS == written(place)
        line = b"dunnage-attacher\0of a test\0"
        assert line == Path(f"/proc/{pid}/cmdline").read_bytes()


def test_who_tells_it_never_waits(place: Path) -> None:
    """Neither when it is stopped and its pipe is full, nor when it is gone."""
    with begun() as pid:
        os.kill(pid, signal.SIGSTOP)
        for _ in range(100_000):
            attaching.expect()
        os.kill(pid, signal.SIGCONT)
        until(lambda: len(written(place)) > attaching.TURNS)
        os.kill(pid, signal.SIGKILL)
    attaching.expect()


@pytest.mark.usefixtures("place")
def test_it_goes_when_nobody_can_tell_it() -> None:
    """All who could have closed their pipe."""
    with begun() as pid:
        os.close(attaching._telling.pop())
        until(lambda: "Z" in Path(f"/proc/{pid}/stat").read_text())


@pytest.mark.usefixtures("place")
def test_it_holds_nothing_that_is_unwanted() -> None:
    """A pipe ends when we have closed it."""
    receiving, sending = os.pipe()
    with begun(sending):
        os.close(sending)
        assert b"" == os.read(receiving, 1)
        os.close(receiving)


def test_where_it_cannot_be_had_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And no descriptor is left."""

    def refuse() -> int:
        raise OSError

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr("dunnage.host.procs.rawfork.fork", refuse)
    assert 0 == attaching.begin("of a test")
    attaching.expect()
    assert before == os.listdir("/proc/self/fd")


def test_where_there_is_no_cgroup_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells it does not mind."""
    monkeypatch.setattr(paths, "own", lambda: None)
    with begun() as pid:
        until(lambda: "Z" in Path(f"/proc/{pid}/stat").read_text())
        attaching.expect()


def test_nothing_is_changed_by_it() -> None:
    """The process stays in the cgroups in which we are."""
    before = Path("/proc/self/cgroup").read_text()
    with begun() as pid:
        attaching.expect()
        until(lambda: not is_asleep(pid))
        until(lambda: is_asleep(pid))
        assert before == Path(f"/proc/{pid}/cgroup").read_text()
