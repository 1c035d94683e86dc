"""A place: a link is put, what stood there is kept, and comes back."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from dunnage.cli.install.links import Place
from dunnage.errors import FailedPrecondition

STOCK = "containerd-shim-runc-v2"
OURS = "containerd-shim-dunnage-v2"


@pytest.fixture
def launcher(tmp_path: Path) -> str:
    """Something that can be linked to."""
    path = tmp_path / "venv/bin" / OURS
    path.parent.mkdir(parents=True)
    path.write_text("ours")
    return str(path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place in a directory of its own, with nothing there."""
    (tmp_path / "bin").mkdir()
    return Place(str(tmp_path / "bin" / STOCK))


def names(place: Place) -> list[str]:
    """Return what is in the directory: no draft stays."""
    return sorted(os.listdir(place.directory))


def test_where_nothing_was(place: Place, launcher: str) -> None:
    """There is a link, and then nothing again."""
    place.put(launcher)
    assert (launcher, [STOCK]) == (place.target(), names(place))
    place.restore()
    assert [] == names(place)


def test_what_was_there_comes_back(place: Place, launcher: str) -> None:
    """The very file, not a copy; putting twice keeps it."""
    Path(place.path).write_text("stock")
    before = os.lstat(place.path)
    for _ in range(2):
        place.put(launcher)
        assert launcher == place.target()
        assert [STOCK, f"{STOCK}.dunnage-kept"] == names(place)
    place.restore()
    assert [STOCK] == names(place)
    assert os.path.samestat(before, os.lstat(place.path))


def test_a_link_that_was_there_comes_back(place: Place, launcher: str) -> None:
    """Of a stock shim that is a link itself, the link is kept."""
    os.symlink("elsewhere/stock", place.path)
    place.put(launcher)
    place.restore()
    assert "elsewhere/stock" == os.readlink(place.path)


def test_an_upgrade_came_between(place: Place, launcher: str) -> None:
    """What an upgrade has put there is the stock shim now: it is kept, or it stays."""
    Path(place.path).write_text("old")
    place.put(launcher)
    upgraded = Path(place.path + ".dpkg-new")
    upgraded.write_text("new")
    upgraded.rename(place.path)
    place.put(launcher)
    assert "new" == Path(place.kept).read_text()
    upgraded.write_text("newer")
    upgraded.rename(place.path)
    place.restore()
    assert ("newer", [STOCK]) == (Path(place.path).read_text(), names(place))


def test_an_interrupted_put(place: Place, launcher: str) -> None:
    """Kept already, and not replaced yet: nothing is lost, no draft stays."""
    Path(place.path).write_text("stock")
    os.link(place.path, place.kept)
    place.put(launcher)
    assert [STOCK, f"{STOCK}.dunnage-kept"] == names(place)
    os.unlink(place.path)  # somebody takes our link away
    place.restore()
    assert ("stock", [STOCK]) == (Path(place.path).read_text(), names(place))


def test_a_link_to_a_launcher_that_is_gone_is_ours(place: Place, launcher: str) -> None:
    """It is replaced, not kept."""
    os.symlink(f"/no/such/{OURS}", place.path)
    place.put(launcher)
    assert (launcher, [STOCK]) == (place.target(), names(place))


def test_never_missing(place: Place, launcher: str) -> None:
    """Whoever executes it at any moment finds the stock shim, or ours."""
    Path(place.path).write_text("stock")
    ends, parent_lives = os.pipe()
    if not (pid := os.fork()):
        os.close(parent_lives)
        try:
            while not select.select([ends], [], [], 0)[0]:
                place.put(launcher)
                place.restore()
        finally:
            os._exit(0)
    try:
        seen: list[str] = []
        while len(seen) < 2000 or len(set(seen)) < 2:
            seen.append(Path(place.path).read_text())
    finally:
        os.close(parent_lives)
        os.waitpid(pid, 0)
    assert {"stock", "ours"} == set(seen)


def test_two_at_once(
    place: Place, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second does not keep the link of the first: the stock shim is kept."""
    Path(place.path).write_text("stock")
    arrived, says = os.pipe()
    waits, goes = os.pipe()
    link = os.link

    def slow(*args: str, **how: bool) -> None:
        os.write(says, b".")
        os.read(waits, 1)
        link(*args, **how)  # type: ignore[arg-type]

    def put(*, slowly: bool) -> int:
        if not (pid := os.fork()):
            try:
                if slowly:
                    monkeypatch.setattr("os.link", slow)
                place.put(launcher)
            finally:
                os._exit(0)
        return pid

    first = put(slowly=True)
    os.read(arrived, 1)
    second = put(slowly=False)
    try:
        while not (is_blocked(second) or has_ended(second)):
            pass
    finally:
        os.write(goes, b".")
        for pid in (first, second):
            os.waitpid(pid, 0)
        for fd in (arrived, says, waits, goes):
            os.close(fd)
    assert ("stock", launcher) == (Path(place.kept).read_text(), place.target())


def is_blocked(pid: int) -> bool:
    """Tell whether a process waits for a file lock."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and str(pid) in line.split() for line in lines)


def has_ended(pid: int) -> bool:
    """Tell whether a child can be waited for; it still can afterwards."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is not None


def test_there_is_no_directory(place: Place, launcher: str) -> None:
    """It says so."""
    os.rmdir(place.directory)
    with pytest.raises(FailedPrecondition, match=r"there is no directory .*/bin"):
        place.put(launcher)


def test_a_directory_has_its_name(place: Place, launcher: str) -> None:
    """It stays."""
    os.mkdir(place.path)
    with pytest.raises(FailedPrecondition, match="is a directory"):
        place.put(launcher)
    assert [STOCK] == names(place)
