"""Mounts with other owners than the disk has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.host.mounts.namespace import apart
from tests.host.mounts.test_layers import MANY, overlay

from dunnage.errors import DunnageError, InvalidArgument
from dunnage.host.mounts import (
    Mount,
    is_mount_point,
    mount_all,
    syscalls,
    unmount_recursive,
)

MAPS = ("uidmap=0:100000:10,10:200000:5", "gidmap=0:300000:10")


def owner(path: Path) -> tuple[int, int]:
    """Return who a file belongs to."""
    status = path.stat()
    return status.st_uid, status.st_gid


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a directory with files of several owners, and a place for a root."""
    path = tmp_path / "source"
    (path / "sub").mkdir(parents=True)
    for name, uid, gid in (("root", 0, 0), ("user", 12, 5), ("none", 50, 50)):
        (path / name).touch()
        os.chown(path / name, uid, gid)
    (tmp_path / "rootfs").mkdir()
    return path


@apart
def test_a_bind(source: Path, tmp_path: Path) -> None:
    """Owners are as the maps say; who is in none is nobody; the disk stays as it is."""
    rootfs = tmp_path / "rootfs"
    mount_all([Mount("bind", str(source), "", ("bind", *MAPS))], str(rootfs))
    assert (100_000, 300_000) == owner(rootfs / "root")
    assert (200_002, 300_005) == owner(rootfs / "user")
    assert (65_534, 65_534) == owner(rootfs / "none")
    os.chown(rootfs / "user", 100_001, 300_001)
    assert (1, 1) == owner(source / "user")
    unmount_recursive(str(rootfs))
    assert [] == list(rootfs.iterdir())


@apart
def test_a_read_only_bind_of_several(source: Path, tmp_path: Path) -> None:
    """What is mounted inside has the owners as well, and flags are kept."""
    syscalls.mount("tmpfs", str(source / "sub"), "tmpfs", 0, "size=64k")
    rootfs = tmp_path / "rootfs"
    options = ("rbind", "ro", "nosuid", *MAPS)
    mount_all([Mount("bind", str(source), "", options)], str(rootfs))
    assert (100_000, 300_000) == owner(rootfs / "sub")
    with pytest.raises(OSError, match="Read-only"):
        (rootfs / "new").touch()
    assert os.statvfs(rootfs).f_flag & os.ST_NOSUID
    unmount_recursive(str(rootfs))
    assert not is_mount_point(str(rootfs))


@pytest.mark.parametrize("count", [1, 2, MANY])
@apart
def test_an_overlay(count: int, tmp_path: Path) -> None:
    """Of its lower layers, be they one or very many; what is written is its upper's."""
    component = overlay(tmp_path, count, *MAPS)
    os.chown(tmp_path / "snapshots/0/fs/0", 3, 4)
    os.chown(tmp_path / "upper", 100_000, 300_000)
    rootfs = tmp_path / "rootfs"
    here = os.getcwd()
    mount_all([component], str(rootfs))
    assert here == os.getcwd()
    assert count == len(list(rootfs.iterdir()))
    assert (100_003, 300_004) == owner(rootfs / "0")
    assert (100_000, 300_000) == owner(rootfs)
    (rootfs / "0").write_text("upper")
    assert "upper" == (tmp_path / "upper/0").read_text()
    assert "lower" == (tmp_path / "snapshots/0/fs/0").read_text()
    assert (3, 4) == owner(tmp_path / "snapshots/0/fs/0")
    unmount_recursive(str(rootfs))
    assert [] == list(rootfs.iterdir())
    assert not is_mount_point(str(rootfs))


@apart
def test_mounts_undone_with_other_owners(source: Path, tmp_path: Path) -> None:
    """mounts-undone: whichever step fails, of a bind and of an overlay."""
    rootfs = str(tmp_path / "rootfs")
    good = Mount("bind", str(source), "", ("bind", *MAPS))
    lower = f"lowerdir={source}:{source}/nowhere"
    (tmp_path / "many").mkdir()
    for component, text in (
        # proc has no owners that could be mapped.
        (Mount("proc", "proc", "", MAPS), "fstype: proc, .* err: invalid argument"),
        (Mount("overlay", "overlay", "", (lower, *MAPS)), "err: no such file"),
        (
            Mount("overlay", "overlay", "", ("lowerdir=/nowhere/a:/nowhere/b", *MAPS)),
            "layers in /nowhere: no such file or directory",
        ),
        (Mount("overlay", "overlay", "", ("lowerdir=x", *MAPS)), "err: no such file"),
        (Mount("nofs", "x"), "err: no such device"),
    ):
        with pytest.raises(DunnageError, match=text):
            mount_all([good, component], rootfs)
        assert not is_mount_point(rootfs)
    assert [] == os.listdir(rootfs)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("uidmap=0:1:2",), "gid_map of a mount: ''"),
        (("gidmap=0:1:2",), "uid_map of a mount: ''"),
        (("uidmap=0:1", "gidmap=0:1:2"), "uid_map of a mount: '0:1'"),
        (("uidmap=0:x:2", "gidmap=0:1:2"), "uid_map of a mount: '0:x:2'"),
        (("uidmap=0:1:2,", "gidmap=0:1:2"), "uid_map of a mount: '0:1:2,'"),
        (("uidmap=0:-1:2", "gidmap=0:1:2"), "uid_map of a mount: '0:-1:2'"),
    ],
)
@apart
def test_a_map_that_makes_no_sense(words: tuple[str, ...], text: str) -> None:
    """It is named, before anything is mounted."""
    with pytest.raises(InvalidArgument, match=text):
        mount_all([Mount("bind", "/", "", ("bind", *words))], "/proc")


@apart
def test_a_map_that_the_kernel_refuses(source: Path, tmp_path: Path) -> None:
    """Ranges that overlap are the kernel's to refuse."""
    options = ("bind", "uidmap=0:1:2,1:5:2", "gidmap=0:1:2")
    component = Mount("bind", str(source), "", options)
    with pytest.raises(DunnageError, match="map of owners: invalid argument"):
        mount_all([component], str(tmp_path / "rootfs"))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert not is_mount_point(str(tmp_path / "rootfs"))
