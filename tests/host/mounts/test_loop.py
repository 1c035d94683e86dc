"""File systems in files, by real loop devices."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.host.mounts.namespace import apart

from dunnage.errors import DunnageError
from dunnage.host.mounts import (
    Mount,
    is_mount_point,
    loop,
    mount_all,
    unmount_recursive,
)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """Make a file with a file system in it; no device of files around it stays."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", path], check=True)
    (tmp_path / "rootfs").mkdir()
    yield path
    for device in devices(tmp_path):
        subprocess.run(["losetup", "-d", f"/dev/{device.name}"], check=True)


def devices(place: Path) -> list[Path]:
    """Return the loop devices that have a file, or one in a directory."""
    return [
        path.parent.parent
        for path in Path("/sys/block").glob("loop*/loop/backing_file")
        if path.read_text().startswith(str(place))
    ]


@apart
def test_a_file_as_a_root(image: Path, tmp_path: Path) -> None:
    """What is written is in the file; its device goes with the mount."""
    rootfs = str(tmp_path / "rootfs")
    mount_all([Mount("ext4", str(image), "", ("loop",))], rootfs)
    (tmp_path / "rootfs/kept").write_text("x")
    (device,) = devices(image)
    assert "0" == (device / "ro").read_text().strip()
    unmount_recursive(rootfs)
    assert [] == devices(image)

    image.chmod(0o400)
    mount_all([Mount("ext4", str(image), "", ("ro", "loop"))], rootfs)
    assert "x" == (tmp_path / "rootfs/kept").read_text()
    (device,) = devices(image)
    assert "1" == (device / "ro").read_text().strip()
    with pytest.raises(OSError, match="Read-only"):
        (tmp_path / "rootfs/more").touch()
    unmount_recursive(rootfs)
    assert [] == devices(image)


@apart
def test_mounts_undone_with_their_devices(image: Path, tmp_path: Path) -> None:
    """mounts-undone: neither a file without a file system nor a later failure leaks."""
    rootfs = str(tmp_path / "rootfs")
    good = Mount("ext4", str(image), "", ("loop",))
    with pytest.raises(DunnageError, match="err: no such device"):
        mount_all([good, Mount("nofs", "x")], rootfs)
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(1 << 20))
    with pytest.raises(DunnageError, match="err: invalid argument"):
        mount_all([good, Mount("ext4", str(empty), "", ("loop",))], rootfs)
    assert not is_mount_point(rootfs)
    assert [] == [*devices(image), *devices(empty)]


@apart
def test_a_kernel_without_the_one_call(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 5.8 it takes two."""
    rootfs = str(tmp_path / "rootfs")
    monkeypatch.setattr(loop, "_CONFIGURE", 0x4CFF)  # which is no call
    mount_all([Mount("ext4", str(image), "", ("loop",))], rootfs)
    assert 1 == len(devices(image))
    unmount_recursive(rootfs)
    assert [] == devices(image)
    ioctl = fcntl.ioctl

    def refuse(fd: int, call: int, *data: Any) -> Any:
        if call == 0x4C04:
            raise OSError(5, "no status")
        return ioctl(fd, call, *data)

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(DunnageError, match="err: input/output error"):
        mount_all([Mount("ext4", str(image), "", ("loop",))], rootfs)
    assert [] == devices(image)


def taking(times: int) -> Callable[..., Any]:
    """Return an ioctl(2) that finds that many devices taken by somebody quicker."""
    ioctl, left = fcntl.ioctl, iter(range(times))

    def call(fd: int, number: int, *data: Any) -> Any:
        if number == 0x4C0A and next(left, None) is not None:
            raise OSError(16, "busy")
        return ioctl(fd, number, *data)

    return call


@apart
def test_somebody_is_quicker(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is tried again, but not for ever."""
    rootfs = str(tmp_path / "rootfs")
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "ioctl", taking(99))
        mount_all([Mount("ext4", str(image), "", ("loop",))], rootfs)
        unmount_recursive(rootfs)
        patch.setattr(fcntl, "ioctl", taking(100))
        with pytest.raises(DunnageError, match="err: device or resource busy"):
            mount_all([Mount("ext4", str(image), "", ("loop",))], rootfs)
    assert before == len(os.listdir("/proc/self/fd"))
    assert [] == devices(image)
