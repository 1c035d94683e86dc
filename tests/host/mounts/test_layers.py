"""Overlays of more layers than the kernel would be told of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.host.mounts.namespace import apart

from dunnage.errors import DunnageError
from dunnage.host.mounts import Mount, is_mount_point, mount_all, unmount_recursive
from dunnage.host.mounts.layers import shorten

MANY = 250


def overlay(place: Path, count: int, *more: str) -> Mount:
    """Make layers as a snapshotter has them, each with a file of its own."""
    lower = [place / f"snapshots/{number}/fs" for number in range(count)]
    for number, path in enumerate(lower):
        path.mkdir(parents=True)
        (path / str(number)).write_text("lower")
    for name in ("upper", "work", "rootfs"):
        (place / name).mkdir()
    options = [f"lowerdir={':'.join(map(str, lower))}"]
    options += [f"upperdir={place}/upper", f"workdir={place}/work", *more]
    return Mount("overlay", "overlay", "", tuple(options))


@apart
def test_very_many_layers(tmp_path: Path) -> None:
    """All are there, in their order, and what is written goes to the upper one."""
    component = overlay(tmp_path, MANY)
    for number in (3, 200):
        (tmp_path / f"snapshots/{number}/fs/same").write_text(str(number))
    assert len(",".join(component.options)) > 4096
    here = os.getcwd()
    rootfs = tmp_path / "rootfs"
    mount_all([component], str(rootfs))
    assert here == os.getcwd()
    assert {str(n) for n in range(MANY)} | {"same"} == {
        p.name for p in rootfs.iterdir()
    }
    assert "3" == (rootfs / "same").read_text()
    (rootfs / "7").write_text("upper")
    assert "upper" == (tmp_path / "upper/7").read_text()
    assert "lower" == (tmp_path / "snapshots/7/fs/7").read_text()
    unmount_recursive(str(rootfs))
    assert not is_mount_point(str(rootfs))


@apart
def test_few_layers_keep_their_names(tmp_path: Path) -> None:
    """Who looks at mounts finds whole paths, as long as there is room for them."""
    mount_all([overlay(tmp_path, 3)], str(tmp_path / "rootfs"))
    table = Path("/proc/self/mountinfo").read_text()
    assert f"lowerdir={tmp_path}/snapshots/0/fs:{tmp_path}/snapshots/1/fs:" in table
    unmount_recursive(str(tmp_path / "rootfs"))


@apart
def test_a_name_that_has_to_be_escaped(tmp_path: Path) -> None:
    """A colon in a directory is one, and so is a backslash."""
    place = tmp_path / ("a:b\\c" * 10)
    place.mkdir()
    component = overlay(place, MANY)
    escaped = str(place).replace("\\", "\\\\").replace(":", "\\:")
    paths = (f"{escaped}/snapshots/{number}/fs" for number in range(MANY))
    options = (f"lowerdir={':'.join(paths)}",)
    rootfs = str(place / "rootfs")
    mount_all([Mount("overlay", "overlay", "", options)], rootfs)
    assert MANY == len(os.listdir(rootfs))
    unmount_recursive(rootfs)
    assert component.options != options


@apart
def test_mounts_undone_of_too_many_layers(tmp_path: Path) -> None:
    """mounts-undone: a layer that is missing, and names that stay too long."""
    component = overlay(tmp_path, MANY)
    (tmp_path / "snapshots/9/fs/9").unlink()
    (tmp_path / "snapshots/9/fs").rmdir()
    rootfs = tmp_path / "rootfs"
    here = os.getcwd()
    bind = Mount("bind", str(tmp_path), "", ("bind",))
    with pytest.raises(DunnageError, match="err: no such file or directory"):
        mount_all([bind, component], str(rootfs))
    long = ":".join(str(tmp_path / ("x" * 100) / str(n)) for n in range(40))
    for words in (f"lowerdir={long}:{tmp_path}", f"lowerdir={long}:x", "x" * 4096):
        with pytest.raises(DunnageError, match="mount options is too long"):
            mount_all([bind, Mount("overlay", "overlay", "", (words,))], str(rootfs))
    assert not is_mount_point(str(rootfs))
    assert here == os.getcwd()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["lowerdir=/s/1/fs:/s/2/fs", "upperdir=/s/3/fs"],
            ("/s", ("upperdir=/s/3/fs", "lowerdir=1/fs:2/fs")),
        ),
        (["lowerdir=/s/12:/s/1"], ("/s", ("lowerdir=12:1",))),
        (["lowerdir=/a/b:/a"], ("/", ("lowerdir=a/b:a",))),
        (["lowerdir=/a/b:/c/d"], ("/", ("lowerdir=a/b:c/d",))),
        (["lowerdir=/a/b//c/:/a/./b/d"], ("/a/b", ("lowerdir=c:d",))),
        (["lowerdir=/a\\:b/c:/a\\:b/d"], ("/a:b", ("lowerdir=c:d",))),
        (["lowerdir=/a/../b/c:/b/d"], None),
        (["lowerdir=/a/b::/a/d"], None),
        (["lowerdir=a:/b"], None),
        (["lowerdir=/a:/b", "lowerdir=/c"], None),
        (["upperdir=/a"], None),
    ],
)
def test_names_from_where_all_are(
    words: list[str], expected: tuple[str, tuple[str, ...]] | None
) -> None:
    """Only where the text says for sure what they are; the lower ones come last."""
    assert expected == shorten(words)
