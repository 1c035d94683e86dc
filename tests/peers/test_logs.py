"""Outputs that go to files, and to loggers, under a real containerd."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.shim.test_loggers import Kept

from .daemon import IMAGE, Containerd, wait_for
from .test_containerd import EACH_WAY, nothing_is_left

pytestmark = pytest.mark.slow

SAYS = ["sh", "-c", "echo out; echo err >&2"]


def detached(containerd: Containerd, way: list[str], uri: str, *says: str) -> None:
    """Run a container whose output goes to a URI, and delete it when it has ended."""
    containerd.ctr("run", "-d", "--log-uri", uri, *way, IMAGE, "c", *says)

    def stopped() -> bool:
        return b"STOPPED" in containerd.ctr("task", "ls").stdout

    wait_for("its end", stopped)
    containerd.ctr("task", "delete", "c")
    containerd.ctr("container", "delete", "c")


@EACH_WAY
@pytest.mark.feature("logs to files")
def test_to_a_file(containerd: Containerd, way: list[str], tmp_path: Path) -> None:
    """``ctr run --log-uri file://…``: both outputs, twice, one after the other."""
    log = tmp_path / "logs/c.log"
    for _ in range(2):
        detached(containerd, way, f"file://{log}", *SAYS)
    assert "out\nerr\n" * 2 == log.read_text()
    nothing_is_left(containerd)


@EACH_WAY
@pytest.mark.parametrize("scheme", ["binary", "binary-v2"])
@pytest.mark.feature("logs to binaries")
def test_to_a_logger(
    containerd: Containerd, way: list[str], tmp_path: Path, scheme: str
) -> None:
    """``ctr run --log-uri binary://…``, and of a process more."""
    kept = Kept(tmp_path)
    detached(containerd, way, kept.uri(scheme), *SAYS)
    assert ("out\nEND\n", "err\nEND\n") == (kept.read("out"), kept.read("err"))
    assert containerd.namespace == kept.read("c").split()[1]
    assert not Path(f"/proc/{kept.pid()}").exists()

    containerd.ctr("run", "-d", *way, IMAGE, "d", "sleep", "1000")
    run = ["task", "exec", "-d", "--log-uri", kept.uri(scheme), "--exec-id", "e"]
    containerd.ctr(*run, "d", *SAYS)
    wait_for("its output", lambda: kept.read("out") == "out\nEND\n" * 2)
    containerd.ctr("task", "delete", "--force", "d", check=False)
    containerd.ctr("container", "delete", "d")
    nothing_is_left(containerd)


@EACH_WAY
@pytest.mark.feature("logs to binaries")
def test_a_logger_that_is_not_ready(
    containerd: Containerd, way: list[str], tmp_path: Path
) -> None:
    """``ctr run`` says why, and nothing is left."""
    kept = Kept(tmp_path, "#!/bin/sh\nexit 3\n")
    run = ["run", "-d", "--log-uri", kept.uri(), *way, IMAGE, "c", "true"]
    done = containerd.ctr(*run, check=False)
    assert done.returncode != 0
    assert b"did not call ready: it ended with status 3" in done.stderr
    containerd.ctr("container", "delete", "c", check=False)
    nothing_is_left(containerd)
