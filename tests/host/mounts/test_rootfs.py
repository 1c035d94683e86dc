"""Root filesystems, mounted for real in a mount namespace of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.host.mounts.namespace import apart, in_user_namespace

from dunnage.errors import DunnageError, InvalidArgument, Unimplemented
from dunnage.host.mounts import (
    Mount,
    is_mount_point,
    mount_all,
    syscalls,
    unmount_recursive,
)
from dunnage.host.mounts import rootfs as rootfs_module


class Layers(NamedTuple):
    """Directories such as a snapshotter has them, and where they go."""

    lower: Path
    upper: Path
    work: Path
    rootfs: Path

    @property
    def overlay(self) -> Mount:
        """An overlay of all of them."""
        return Mount(
            "overlay",
            "overlay",
            options=(
                "index=off",
                f"workdir={self.work}",
                f"upperdir={self.upper}",
                f"lowerdir={self.lower}",
            ),
        )

    def bind(self, *options: str, target: str = "") -> Mount:
        """A bind of the lower directory."""
        return Mount("bind", str(self.lower), target, options)


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    """One lower directory with content, an upper one, a work one, a rootfs."""
    made = Layers(*(tmp_path / name for name in Layers._fields))
    for directory in made:
        directory.mkdir()
    (made.lower / "sub").mkdir()
    (made.lower / "file").write_text("lower")
    return made


@apart
def test_overlay(layers: Layers) -> None:
    """What is written into an overlay is in its upper directory."""
    mount_all([layers.overlay], str(layers.rootfs))
    assert (layers.rootfs / "file").read_text() == "lower"
    (layers.rootfs / "new").write_text("x")
    assert (layers.upper / "new").exists()
    assert not (layers.lower / "new").exists()
    unmount_recursive(str(layers.rootfs))
    assert list(layers.rootfs.iterdir()) == []


@apart
def test_bind(layers: Layers) -> None:
    """A bind shows its source, writable."""
    mount_all([layers.bind("rbind", "rw")], str(layers.rootfs))
    (layers.rootfs / "new").write_text("x")
    assert (layers.lower / "new").exists()
    unmount_recursive(str(layers.rootfs))


@apart
def test_read_only_bind(layers: Layers) -> None:
    """A read-only bind is read-only itself, and its source is not."""
    mount_all([layers.bind("rbind", "ro", "nosuid")], str(layers.rootfs))
    with pytest.raises(OSError, match="Read-only file system"):
        (layers.rootfs / "new").write_text("x")
    flags = os.statvfs(layers.rootfs).f_flag
    assert flags & os.ST_NOSUID
    (layers.lower / "new").write_text("x")
    unmount_recursive(str(layers.rootfs))


@apart
def test_components_in_order(layers: Layers) -> None:
    """A later component goes to its target inside of the earlier ones."""
    inner = layers.lower.parent / "inner"
    inner.mkdir()
    (inner / "deep").touch()
    mount_all(
        [layers.overlay, Mount("bind", str(inner), "/sub", ("bind",))],
        str(layers.rootfs),
    )
    assert (layers.rootfs / "sub/deep").exists()
    assert not (layers.upper / "sub/deep").exists()
    unmount_recursive(str(layers.rootfs))
    assert not is_mount_point(str(layers.rootfs))


@pytest.mark.parametrize("target", ["../../sub", "/sub", "absolute", "climbing"])
@apart
def test_no_target_leads_out(target: str, layers: Layers) -> None:
    """Neither ``..`` nor a symlink of the image brings a mount out of the rootfs."""
    outside = layers.rootfs.parent / "sub"
    outside.mkdir()
    (layers.lower / "absolute").symlink_to("/sub")
    (layers.lower / "climbing").symlink_to("../../../../../sub")
    mount_all(
        [layers.bind("bind"), layers.bind("bind", target=target)], str(layers.rootfs)
    )
    assert is_mount_point(str(layers.rootfs / "sub"))
    assert (layers.rootfs / "sub/file").exists()
    assert list(outside.iterdir()) == []
    unmount_recursive(str(layers.rootfs))


@apart
def test_a_rootfs_behind_a_symlink(layers: Layers) -> None:
    """A state directory that is a symlink, as /var/run is, makes no difference."""
    alias = layers.rootfs.parent / "alias"
    alias.symlink_to(layers.rootfs.parent)
    mount_all([layers.bind("bind")], str(alias / "rootfs"))
    assert is_mount_point(str(layers.rootfs))
    unmount_recursive(str(alias / "rootfs"))
    assert not is_mount_point(str(layers.rootfs))


@apart
def test_mounts_undone_when_a_later_one_fails(layers: Layers) -> None:
    """mounts-undone: after a failure nothing of what was mounted is left."""
    (layers.lower / "sub/sub").mkdir()
    before = Path("/proc/self/mountinfo").read_text()
    with pytest.raises(DunnageError) as caught:
        mount_all(
            [
                layers.overlay,
                layers.bind("bind", target="sub"),
                Mount("bind", "/nowhere", "sub/sub", ("bind", "ro")),
            ],
            str(layers.rootfs),
        )
    wanted = (
        "failed to mount rootfs component: "
        f'mount source: "/nowhere", target: "{layers.rootfs}/sub/sub", fstype: bind, '
        'flags: 4097, data: "", err: no such file or directory'
    )
    assert wanted == caught.value.message
    assert type(caught.value) is DunnageError
    assert before == Path("/proc/self/mountinfo").read_text()


@apart
def test_mounts_undone_when_the_remount_fails(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mounts-undone: a bind that could not be made read-only does not stay."""
    mount = syscalls.mount

    def refuse(source: str, target: str, fstype: str, flags: int, data: str) -> None:
        if flags & 32:
            raise PermissionError(1, "no")
        mount(source, target, fstype, flags, data)

    monkeypatch.setattr(syscalls, "mount", refuse)
    with pytest.raises(DunnageError, match=r"err: operation not permitted$"):
        mount_all([layers.bind("bind", "ro")], str(layers.rootfs))
    assert not is_mount_point(str(layers.rootfs))


@apart
def test_what_cannot_be_undone_is_said(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the failure and what it left behind are in the error; the rest is undone."""

    def busy(path: str) -> None:
        raise DunnageError(f"failed to unmount {path}: device or resource busy")

    monkeypatch.setattr(rootfs_module, "unmount", busy)
    with pytest.raises(DunnageError) as caught:
        mount_all([layers.bind("bind"), Mount("nofs", "x")], str(layers.rootfs))
    assert "err: no such device; failed to unmount" in caught.value.message
    unmount_recursive(str(layers.rootfs))


@pytest.mark.parametrize(
    ("component", "kind", "text"),
    [
        (Mount("nofs", "x"), DunnageError, "err: no such device"),
        (
            Mount("overlay", "overlay", options=("lowerdir=/nowhere",)),
            DunnageError,
            'data: "lowerdir=/nowhere", err: ',
        ),
        (
            Mount("bind", "/", "nowhere", ("bind",)),
            DunnageError,
            "component: target nowhere: no such file or directory",
        ),
        (Mount("bind", "/\0", "", ("bind",)), DunnageError, "err: invalid argument"),
        (
            Mount("bind", "/", "\0", ("bind",)),
            DunnageError,
            "component: invalid argument",
        ),
        (
            Mount("bind", "/", "", ("bind", "x" * 4096)),
            DunnageError,
            "component: mount options is too long",
        ),
        (Mount("ext4", "/x", "", ("loop",)), DunnageError, "err: no such file or dir"),
        (Mount("fuse.x", "x"), DunnageError, "component: mount.fuse: no such file"),
        (
            Mount("bind", "/", "", ("bind", "X-containerd.x=y")),
            InvalidArgument,
            "component: mount option X-containerd.x=y",
        ),
    ],
)
@apart
def test_a_component_that_cannot_be_mounted(
    component: Mount, kind: type[DunnageError], text: str, layers: Layers
) -> None:
    """Each failure says what was asked and what the kernel answered."""
    with pytest.raises(DunnageError) as caught:
        mount_all([component], str(layers.rootfs))
    assert caught.value.message.startswith("failed to mount rootfs component: ")
    assert text in caught.value.message
    assert type(caught.value) is kind
    assert not is_mount_point(str(layers.rootfs))


@apart
def test_a_rootfs_that_is_missing(layers: Layers) -> None:
    """A bundle without its rootfs directory is a clear error."""
    with pytest.raises(DunnageError, match=r"err: no such file or directory$"):
        mount_all([layers.bind("bind")], str(layers.rootfs / "missing"))


@apart
def test_a_kernel_without_safe_targets(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where openat2 is missing a target is refused rather than joined unsafely."""

    def missing(root: str, path: str) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(syscalls, "open_in_root", missing)
    with pytest.raises(Unimplemented, match="kernel before"):
        mount_all([layers.bind("bind", target="sub")], str(layers.rootfs))


@apart
def test_read_only_in_a_user_namespace(layers: Layers) -> None:
    """What the source's owner forbids stays forbidden, and nothing else is."""
    syscalls.mount("tmpfs", str(layers.lower), "tmpfs", 2 | 4 | 1024, "")
    (layers.lower / "file").touch()
    with in_user_namespace():
        mount_all([layers.bind("bind", "ro")], str(layers.rootfs))
        flags = os.statvfs(layers.rootfs).f_flag
        assert os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOATIME == flags & (
            os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOATIME | os.ST_NOEXEC
        )


def test_nothing_to_mount() -> None:
    """Docker sends no components: nothing is touched, not even the directory."""
    mount_all([], "/nowhere")
