"""Unmounting, for real, in a mount namespace of its own."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from tests.host.mounts.namespace import apart

from dunnage.errors import DunnageError
from dunnage.host.mounts import is_mount_point, syscalls, unmount_recursive


def tmpfs(path: Path) -> Path:
    """Mount a file system of its own on ``path``."""
    path.mkdir(exist_ok=True)
    syscalls.mount("tmpfs", str(path), "tmpfs", 0, "size=64k")
    return path


@apart
def test_mounts_undone_at_every_depth(tmp_path: Path) -> None:
    """mounts-undone: nested, stacked and neighbouring mounts, all and no others."""
    neighbour = tmpfs(tmp_path / "top-not")
    top = tmpfs(tmp_path / "top")
    tmpfs(top / "a")
    tmpfs(top / "a/b")
    tmpfs(top / "a/b")
    tmpfs(top / "c")
    unmount_recursive(str(top))
    assert list(top.iterdir()) == []
    assert not is_mount_point(str(top))
    assert is_mount_point(str(neighbour))


@apart
def test_mounts_undone_beneath_another_mount(tmp_path: Path) -> None:
    """mounts-undone: what a mount on top hides comes off after it, without a wait."""
    top = tmpfs(tmp_path / "top")
    tmpfs(top / "hidden")
    tmpfs(top / "same")
    tmpfs(top)
    (top / "same").mkdir()
    unmount_recursive(str(top))
    assert list(top.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "tab\there", "back\\slash", "\\040", "né\r\n"])
@apart
def test_names_that_the_kernel_escapes(name: str, tmp_path: Path) -> None:
    """A mount point may have any name."""
    top = tmpfs(tmp_path / name)
    tmpfs(top / name)
    assert is_mount_point(str(top / name))
    unmount_recursive(str(tmp_path))
    assert not is_mount_point(str(top))


@apart
def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    """A missing path, an unmounted one, and a second call are fine."""
    unmount_recursive(str(tmp_path / "missing/deep"))
    unmount_recursive(str(tmp_path))
    top = tmpfs(tmp_path / "top")
    unmount_recursive(str(top))
    unmount_recursive(str(top))
    assert not is_mount_point(str(tmp_path / "missing"))


@apart
def test_a_busy_mount_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is in use comes off as soon as it is free."""
    top = tmpfs(tmp_path / "top")
    used = os.open(top, os.O_RDONLY)
    pauses: list[float] = []

    def pause(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 3:
            os.close(used)

    monkeypatch.setattr(time, "sleep", pause)
    unmount_recursive(str(top))
    assert pauses == [0.05] * 3
    assert not is_mount_point(str(top))


@apart
def test_a_mount_that_stays_busy_is_an_error_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last try it is said so; nothing is ever hidden by a lazy unmount."""
    top = tmpfs(tmp_path / "top")
    used = os.open(top, os.O_RDONLY)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(DunnageError) as caught:
        unmount_recursive(str(top))
    wanted = f"failed to unmount {top}: device or resource busy"
    assert wanted == caught.value.message
    assert len(pauses) == 49
    assert is_mount_point(str(top))
    os.close(used)
    unmount_recursive(str(top))


@apart
def test_without_the_right_to_unmount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no waiting can cure is said at once."""
    top = tmpfs(tmp_path / "top")

    def refuse(path: str) -> None:
        raise PermissionError(errno.EPERM, "no", path)

    monkeypatch.setattr(syscalls, "umount", refuse)
    with pytest.raises(DunnageError, match=r"top: operation not permitted$"):
        unmount_recursive(str(top))


@apart
def test_another_one_unmounts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon may clean up at the same time: what it took off is off."""
    top = tmpfs(tmp_path / "top")
    umount = syscalls.umount

    def late(path: str) -> None:
        umount(path)
        umount(path)

    monkeypatch.setattr(syscalls, "umount", late)
    unmount_recursive(str(top))
    assert not is_mount_point(str(top))


@apart
def test_one_busy_mount_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can come off comes off, whatever stays."""
    top = tmpfs(tmp_path / "top")
    tmpfs(top / "free")
    used = os.open(tmpfs(top / "a"), os.O_RDONLY)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(DunnageError, match=r"top/a: device or resource busy$"):
        unmount_recursive(str(top))
    assert not is_mount_point(str(top / "free"))
    os.close(used)
    unmount_recursive(str(top))
