"""Options, -info and other owners, as real daemons and ctr say them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon import IMAGE, VERSIONS, Containerd, wait_for

pytestmark = pytest.mark.slow

NAME = "io.containerd.dunnage.v2"
SECOND = VERSIONS[2:]
"""Of containerd 2."""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Give a directory that others may pass through: the root of a user namespace."""
    with tempfile.TemporaryDirectory(prefix="dn-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def wrapper(directory: Path, runtime: str) -> Path:
    """Make a runtime that is a script around another, and tells what it was told."""
    program = directory / "nvidia-container-runtime"
    program.write_text(f'#!/bin/sh\necho "$@" >>{program}.calls\nexec {runtime} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("containerd", VERSIONS, indirect=True)
def test_a_configuration_in_toml(containerd: Containerd, tmp_path: Path) -> None:
    """The file that ctr names chooses the runtime, and its errors are shown."""
    program = wrapper(tmp_path, "runc")
    path = tmp_path / "options.toml"
    argv = ["run", "--rm", "--runtime", NAME, "--runtime-config-path", str(path)]
    path.write_text(f'BinaryName = "{program}"\nRoot = "{tmp_path}/r"\n')
    done = containerd.ctr(*argv, IMAGE, "c", "echo", "out")
    assert b"out\n" == done.stdout
    calls = Path(f"{program}.calls").read_text().splitlines()
    assert all(f"--root {tmp_path}/r/{containerd.namespace} " in call for call in calls)
    assert " create " in calls[0]
    path.write_text("Binary = 1\n")
    done = containerd.ctr(*argv, IMAGE, "d", "true", check=False)
    assert done.returncode != 0
    assert f"{path}: unknown option Binary ".encode() in done.stderr


@pytest.mark.parametrize("containerd", SECOND, indirect=True)
def test_what_the_runtime_can_do(containerd: Containerd) -> None:
    """What ctr shows of us, by the daemon's `-info`."""
    done = containerd.ctr("plugins", "inspect-runtime", "--runtime", NAME)
    told = json.loads(done.stdout)
    assert NAME == told["Name"]
    assert "1.0.0" == told["Features"]["ociVersionMin"]
    assert "org.opencontainers.runc.version" in told["Annotations"]


@pytest.mark.parametrize("containerd", SECOND, indirect=True)
def test_a_user_namespace_on_mapped_layers(containerd: Containerd) -> None:
    """The snapshotter asks for other owners: the container's root owns its files."""
    argv = ["run", "--rm", "--runtime", NAME, "--remap-labels"]
    argv += ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]
    script = "stat -c %u:%g /bin/busybox; cat /proc/self/uid_map; echo x >/file"
    with containerd.events() as events:
        done = containerd.ctr(*argv, IMAGE, "c", "sh", "-c", script)
        wait_for("the events", lambda: "delete" in events.topics("c"))
    assert [b"0:0", b"0", b"100000", b"65536"] == done.stdout.split()
    (created,) = [fields for topic, fields in events.tasks() if topic == "create"]
    assert "uidmap=0:100000:65536" in json.dumps(created["rootfs"])
