"""Outputs that go to files, and to loggers, under a real containerd."""

from __future__ import annotations

from pathlib import Path

import pytest

from .daemon import IMAGE, Containerd, wait_for
from .test_containerd import WAYS, nothing_is_left

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


@pytest.mark.parametrize("way", WAYS)
def test_to_a_file(containerd: Containerd, way: list[str], tmp_path: Path) -> None:
    """``ctr run --log-uri file://…``: both outputs, twice, one after the other."""
    log = tmp_path / "logs/c.log"
    for _ in range(2):
        detached(containerd, way, f"file://{log}", *SAYS)
    assert "out\nerr\n" * 2 == log.read_text()
    nothing_is_left(containerd)
