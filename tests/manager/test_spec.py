"""Specs that containers are run from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dunnage.errors import InvalidArgument, NotFound
from dunnage.manager import spec

if TYPE_CHECKING:
    from pathlib import Path


def test_for_directory() -> None:
    """A made spec runs the command in namespaces of its own, on the bundle's rootfs."""
    made = spec.for_directory(["a", "b"], hostname="h" * 70, cgroup="/x/y")
    assert made["process"]["args"] == ["a", "b"]
    assert made["root"] == {"path": "rootfs", "readonly": False}
    assert made["hostname"] == "h" * 63
    assert made["linux"]["cgroupsPath"] == "/x/y"
    kinds = {namespace["type"] for namespace in made["linux"]["namespaces"]}
    assert kinds == {"pid", "ipc", "uts", "mount", "network"}
    assert "CAP_SYS_ADMIN" not in made["process"]["capabilities"]["bounding"]
    json.dumps(made)


def test_no_command() -> None:
    """A container, or an exec, of nothing is refused."""
    with pytest.raises(InvalidArgument):
        spec.for_directory([], hostname="h", cgroup="/c")
    with pytest.raises(InvalidArgument):
        spec.process_like_init({"process": {"args": ["a"]}}, [])


@pytest.mark.parametrize(
    ("path", "absolute"), [("rootfs", "{}/rootfs"), ("/r", "/r"), ("../r", "{}/../r")]
)
def test_from_bundle(tmp_path: Path, path: str, absolute: str) -> None:
    """A bundle's root becomes absolute; its terminal goes, unless it is asked for."""
    write(
        tmp_path,
        {
            "process": {"args": ["own"], "terminal": True, "consoleSize": {}},
            "root": {"path": path},
        },
    )
    made = spec.from_bundle(tmp_path, [], cgroup="/c")
    assert made["root"]["path"] == absolute.format(tmp_path)
    assert made["process"] == {"args": ["own"], "terminal": False}
    assert made["linux"]["cgroupsPath"] == "/c"


def test_from_bundle_keeps_what_it_says(tmp_path: Path) -> None:
    """A bundle's own cgroup stands, a command replaces its own."""
    write(
        tmp_path,
        {
            "process": {"args": ["own"]},
            "root": {"path": "r"},
            "linux": {"cgroupsPath": "/own"},
        },
    )
    made = spec.from_bundle(tmp_path, ["other"], cgroup="/c")
    assert made["linux"]["cgroupsPath"] == "/own"
    assert made["process"]["args"] == ["other"]


@pytest.mark.parametrize(
    "config",
    [
        [],
        {},
        {"process": {}},
        {"process": 1, "root": {"path": "r"}},
        {"process": {}, "root": {"path": 1}},
        {"process": {}, "root": {"path": "r"}, "linux": 1},
    ],
)
def test_bad_bundle(tmp_path: Path, config: Any) -> None:
    """What is no spec is refused."""
    write(tmp_path, config)
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        spec.from_bundle(tmp_path, ["a"], cgroup="/c")


def test_missing_bundle(tmp_path: Path) -> None:
    """A directory without a spec is no bundle."""
    with pytest.raises(NotFound, match=r"config\.json"):
        spec.from_bundle(tmp_path, ["a"], cgroup="/c")


def test_process_like_init() -> None:
    """An exec is what init is, with another command and no terminal."""
    init = {"args": ["a"], "cwd": "/w", "terminal": True}
    made = spec.process_like_init({"process": init}, ["b"])
    assert made == {"args": ["b"], "cwd": "/w", "terminal": False}
    assert init["args"] == ["a"]


def write(directory: Path, config: Any) -> None:
    """Make a bundle."""
    (directory / "config.json").write_text(json.dumps(config))


def test_a_terminal() -> None:
    """It has a size from the start, and a name in the environment if there is none."""
    size = spec.Size(width=90, height=30)
    wanted = {"args": ["b"], "terminal": True, "env": ["A=1", "TERM=xterm"]}
    wanted["consoleSize"] = {"width": 90, "height": 30}
    init = {"args": ["a"], "env": ["A=1"]}
    assert wanted == spec.process_like_init({"process": init}, ["b"], terminal=size)
    init = {"args": ["a"], "env": ["TERM=vt100"]}
    made = spec.process_like_init({"process": init}, ["b"], terminal=size)
    assert ["TERM=vt100"] == made["env"]
    made = spec.for_directory(["b"], hostname="h", cgroup="/c", terminal=size)
    assert made["process"]["terminal"]
