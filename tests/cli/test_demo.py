"""The first thing that people try."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from tests.cli.driver import STOCK

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "script/demo"
LIMIT_S = 60

BEGIN = ["create", "start", "exec-added", "exec-started", "exit"]
END = ["exit", "delete"]


@pytest.mark.parametrize(
    ("words", "exec_delete"),
    [([], ["delete"]), ([str(STOCK)], [])],
    ids=["ours", "stock"],
)
def test_demo(words: list[str], exec_delete: list[str]) -> None:
    """It shows output, exit statuses, and every event in order; nothing stays."""
    before = temporary()
    ended = subprocess.run(
        [DEMO, *words], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "container | hello from a container" in ended.stdout
    assert "exec      | hello from an exec" in ended.stdout
    assert "exec      : exit status 0" in ended.stdout
    assert "container | asked to stop: goodbye" in ended.stdout
    assert "container : exit status 7" in ended.stdout
    assert re.findall(r" s  /tasks/(\S+)", ended.stdout) == BEGIN + exec_delete + END
    assert temporary() == before


def test_failure() -> None:
    """When it fails it says why, and nothing stays."""
    before = temporary()
    ended = subprocess.run(
        [DEMO, "io.containerd.nope.v2"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 1
    assert "containerd-shim-nope-v2" in ended.stderr
    assert temporary() == before


def test_interrupted() -> None:
    """When it is interrupted, nothing stays either."""
    before = temporary()
    with subprocess.Popen(
        [DEMO], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while "hello from a container" not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130
    assert temporary() == before


def temporary() -> list[Path]:
    """Return what demos, of whoever, have in /tmp and have mounted."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    assert [line for line in mounts if "dunnage-demo" in line] == []
    return sorted(Path("/tmp").glob("dunnage-demo-*"))
