"""Bundles come whole and go whole."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from dunnage.errors import AlreadyExists, DunnageError, InvalidArgument, NotFound
from dunnage.manager import bundles

if TYPE_CHECKING:
    from pathlib import Path

    from dunnage.manager.places import Places


def test_create(places: Places) -> None:
    """A bundle has the directories, modes and files that shims expect."""
    bundle = bundles.create(places, "c", b'{"a": 1}')
    assert bundle.path == places.bundles / "c"
    assert (0o700, 0o711) == (mode(bundle.path), mode(bundle.rootfs))
    assert (bundle.path / "work").readlink() == bundle.work == places.works / "c"
    assert mode(bundle.work) == 0o711
    assert (bundle.path / "config.json").read_bytes() == b'{"a": 1}'


def test_create_for_a_user_namespace(places: Places) -> None:
    """The root of a user namespace may pass through the bundle."""
    mappings = [{"containerID": 0, "hostID": 12345, "size": 1}]
    config = json.dumps({"linux": {"gidMappings": mappings}}).encode()
    bundle = bundles.create(places, "c", config)
    assert mode(bundle.path) == 0o710
    assert bundle.path.stat().st_gid == 12345


def test_create_twice(places: Places) -> None:
    """An id that is taken is refused, and the bundle that has it stays whole."""
    bundle = bundles.create(places, "c", b"{}")
    with pytest.raises(AlreadyExists, match="task c"):
        bundles.create(places, "c", b'{"other": 1}')
    assert (bundle.path / "config.json").read_bytes() == b"{}"
    assert bundle.work.is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../c", ".c", "a" * 77])
def test_bad_id(places: Places, name: str) -> None:
    """An id that could lead elsewhere is refused everywhere."""
    with pytest.raises(InvalidArgument):
        bundles.create(places, name, b"{}")
    with pytest.raises(InvalidArgument):
        bundles.find(places, name)
    assert not places.state.exists()


@pytest.mark.parametrize("config", [b"{", b"[]", b"\xff"])
def test_bad_config(places: Places, config: bytes) -> None:
    """What is no JSON object becomes no bundle."""
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        bundles.create(places, "c", config)
    assert bundles.list_all(places) == []


def test_create_fails_half_way(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """all-or-nothing: a failure leaves neither bundle nor work directory."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        bundles.create(places, "c", b"{}")
    assert (os.listdir(places.bundles), os.listdir(places.works)) == ([], [])


def test_work_of_an_earlier_life(places: Places) -> None:
    """A work directory that outlived a reboot is made anew."""
    (places.works / "c").mkdir(parents=True)
    (places.works / "c/old").touch()
    bundle = bundles.create(places, "c", b"{}")
    assert os.listdir(bundle.work) == []


def test_find_and_list(places: Places) -> None:
    """Bundles are found by id; what is hidden or no directory is none."""
    assert bundles.list_all(places) == []
    with pytest.raises(NotFound, match="task b"):
        bundles.find(places, "b")
    made = [bundles.create(places, name, b"{}") for name in ("a", "b")]
    (places.bundles / ".c").mkdir()
    (places.bundles / "file").touch()
    assert bundles.list_all(places) == made
    assert bundles.find(places, "b") == made[1]


def test_delete(places: Places) -> None:
    """Nothing stays of a bundle that was removed; twice is no error."""
    bundle = bundles.create(places, "c", b"{}")
    (bundle.work / "image").mkdir()
    (places.bundles / ".c").mkdir()  # a crash left it
    for _ in range(2):
        bundles.delete(bundle)
        assert (os.listdir(places.bundles), os.listdir(places.works)) == ([], [])


def test_delete_unmounts(places: Places, tmp_path: Path) -> None:
    """never-through-a-mount: what was mounted is unmounted, and keeps its content."""
    (tmp_path / "precious").touch()
    bundle = bundles.create(places, "c", b"{}")
    (bundle.path / "other").mkdir()
    for target in (bundle.rootfs, bundle.path / "other", bundle.work):
        subprocess.run(["mount", "--bind", tmp_path, target], check=True)
    bundles.delete(bundle)
    assert os.listdir(tmp_path) == ["precious"]
    assert os.listdir(places.bundles) == []


@pytest.mark.slow
def test_delete_of_a_busy_one(places: Places, tmp_path: Path) -> None:
    """A mount that stays is an error, and nothing is removed then."""
    (tmp_path / "precious").touch()
    bundle = bundles.create(places, "c", b"{}")
    subprocess.run(["mount", "--bind", tmp_path, bundle.rootfs], check=True)
    busy = os.open(bundle.rootfs / "precious", os.O_RDONLY)
    try:
        with pytest.raises(DunnageError, match="busy"):
            bundles.delete(bundle)
        assert (bundle.rootfs / "precious").exists()
    finally:
        os.close(busy)
    bundles.delete(bundle)
    assert os.listdir(tmp_path) == ["precious"]


def test_delete_of_a_full_rootfs(places: Places) -> None:
    """A rootfs with content that is no mount is somebody's, and is not removed."""
    bundle = bundles.create(places, "c", b"{}")
    (bundle.rootfs / "precious").touch()
    with pytest.raises(OSError, match="not empty"):
        bundles.delete(bundle)
    assert (bundle.rootfs / "precious").exists()


def mode(path: Path) -> int:
    """Return the permissions."""
    return path.stat().st_mode & 0o777
