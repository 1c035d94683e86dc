"""The lines for configurations, read by the daemons that they are for."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.peers.daemon import if_built, peer

from dunnage.cli.install import configs


@pytest.mark.parametrize(
    ("daemon", "file", "lines"),
    [
        ("containerd-1.6", 1, 1),
        ("containerd-1.6", 2, 2),
        ("containerd-2.1", 2, 2),
        ("containerd-2.1", 3, 3),
        pytest.param("containerd-2.3", 4, 3, marks=if_built),
    ],
)
def test_containerd_takes_the_lines(
    tmp_path: Path, daemon: str, file: int, lines: int
) -> None:
    """The daemon itself says that its CRI has the runtime, beside its own."""
    config = tmp_path / "config.toml"
    text = f"version = {file}\n" if file > 1 else 'root = "/x"\n'
    config.write_text(f"{text}\n{configs.containerd(lines)}")
    assert lines == configs.version_of(config.read_bytes())
    argv = [str(peer(daemon, "containerd")), "--config", str(config), "config", "dump"]
    dumped = subprocess.run(argv, capture_output=True, check=True).stdout
    plugins = tomllib.loads(dumped.decode())["plugins"]
    runtimes = [
        plugin["containerd"]["runtimes"]
        for name, plugin in plugins.items()
        if "runtimes" in plugin.get("containerd", {})
    ]
    assert [configs.RUNTIME] == [r["dunnage"]["runtime_type"] for r in runtimes]
    assert ["dunnage"] == configs.named_in_containerd(config.read_bytes())
    assert ["dunnage"] == configs.named_in_containerd(dumped)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("", 0),
        ("root = '/x'", 1),
        ("version = 2", 2),
        ("version = 9", 3),
        ("version = '2'", 0),
        ("version = -1", 0),
        ("version", 0),
    ],
)
def test_version_of(text: str, version: int) -> None:
    """What cannot be told is 0, and no error."""
    assert version == configs.version_of(text.encode())


def test_docker() -> None:
    """What we print is what we find; other runtimes are none of ours."""
    config = json.loads(configs.docker())
    config["runtimes"]["crun"] = {"path": "/usr/bin/crun"}
    config["runtimes"]["by-path"] = {"runtimeType": f"/opt/{configs.NAME}/bin/x"}
    assert ["dunnage"] == configs.named_in_docker(json.dumps(config).encode())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runtimes": 1}', "{", "\xff"])
def test_configurations_that_say_nothing(text: str) -> None:
    """No error, and no name."""
    assert [] == configs.named_in_docker(text.encode("latin-1"))
    assert [] == configs.named_in_containerd(text.encode("latin-1"))


def test_a_path_is_a_name_too() -> None:
    """A runtime that is the path of the launcher is ours."""
    path = "/opt/dunnage/bin/containerd-shim-dunnage-v2"
    lines = configs.containerd(2, path)
    assert ["dunnage"] == configs.named_in_containerd(lines.encode())
    assert ["dunnage"] == configs.named_in_docker(configs.docker(path).encode())
