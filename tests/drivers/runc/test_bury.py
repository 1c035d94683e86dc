"""Burying what a shim left, by the files of its bundle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.host.mounts.namespace import apart

from dunnage.drivers.runc import bury
from dunnage.host.mounts import Mount, mount_all
from dunnage.host.mounts.unmount import is_mount_point
from dunnage.host.procs import Children

from .fake_runtime import FakeRuntime


def fake_at(directory: Path) -> FakeRuntime:
    """Make a runtime, and a bundle that names it."""
    fake = FakeRuntime(directory, Children())
    fake.options.write(str(fake.bundle))
    fake.state.mkdir(parents=True)
    return fake


@apart
def test_the_runtime_deletes_and_the_root_is_unmounted(tmp_path: Path) -> None:
    """mounts-undone: by force, in the root that the options name; and again."""
    fake = fake_at(tmp_path)
    rootfs = fake.bundle / "rootfs"
    rootfs.mkdir()
    mount_all([Mount("tmpfs", "tmpfs"), Mount("tmpfs", "tmpfs")], str(rootfs))
    for _ in range(2):
        assert [] == bury(str(fake.bundle), "ns", "c")
        assert not fake.state.exists()
        assert not is_mount_point(str(rootfs))
    assert ["delete --force c"] * 2 == fake.calls()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'container does not exist' >&2; exit 1", []),
        ("echo 'no luck' >&2; exit 1", ["{} delete: exit status 1: no luck"]),
        ("kill -9 $$", ["{} delete: signal: killed: "]),
    ],
)
def test_what_goes_wrong_is_told(
    tmp_path: Path, script: str, expected: list[str]
) -> None:
    """A container that is not there is fine; every other failure is a line."""
    fake = fake_at(tmp_path)
    fake.on("delete", script)
    said = bury(str(fake.bundle), "ns", "c")
    assert [line.format(fake.program) for line in expected] == said


@apart
def test_every_step_is_tried(tmp_path: Path) -> None:
    """Without a runtime the root is unmounted all the same."""
    fake = fake_at(tmp_path)
    fake.program.unlink()
    rootfs = fake.bundle / "rootfs"
    rootfs.mkdir()
    mount_all([Mount("tmpfs", "tmpfs")], str(rootfs))
    (problem,) = bury(str(fake.bundle), "ns", "c")
    assert problem.endswith(f"{fake.program}: no such file or directory")
    assert not is_mount_point(str(rootfs))


def test_a_bundle_that_is_gone_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default runtime is asked for it, in its default place."""
    fake = fake_at(tmp_path)
    fake.program.rename(tmp_path / "runc")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [] == bury(str(tmp_path / "nowhere"), "ns", "c")
    assert ["--root /run/containerd/runc/ns delete --force c"] == fake.calls()
