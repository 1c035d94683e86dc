"""Fixtures: the command with a shim and a state of its own."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.driver import STOCK, Cli
from tests.machine import cgroups_named

from dunnage.manager.places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    """A root filesystem of busybox."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing: script/test installs it"
    root = Path(tempfile.mkdtemp(prefix="dunnage-rootfs-"))
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir()
    shutil.copy(busybox, root / "bin/busybox")
    for name in (
        "sh",
        "cat",
        "echo",
        "sleep",
        "id",
        "true",
        "head",
        "yes",
        "seq",
        "stty",
        "tty",
        "test",
    ):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/plain").write_text("not executable")
    yield root
    shutil.rmtree(root)


@pytest.fixture
def places() -> Iterator[Places]:
    """A state and a namespace of its own, with a path short enough for sockets."""
    directory = tempfile.mkdtemp(prefix="d-", dir="/tmp")
    namespace = f"t{uuid.uuid4().hex[:8]}"
    yield Places.make(namespace, f"{directory}/s", f"{directory}/r")
    for cgroup in cgroups_named(f"dunnage/{namespace}"):
        cgroup.rmdir()
        with suppress(OSError):  # another test's namespace is in it
            cgroup.parent.rmdir()
    shutil.rmtree(directory)


@pytest.fixture(params=["stock", "ours"])
def cli(request: pytest.FixtureRequest, rootfs: Path, places: Places) -> Iterator[Cli]:
    """The command, with Debian's shim and with ours."""
    if request.param == "stock":
        assert STOCK.exists(), f"{STOCK} is missing: script/peers brings it"
    runtime = str(STOCK) if request.param == "stock" else "io.containerd.dunnage.v2"
    cli = Cli(runtime, rootfs, places)
    yield cli
    for name in cli.ps():
        cli("rm", "-f", name)
    for pid in cli.shims():
        os.kill(pid, signal.SIGKILL)
