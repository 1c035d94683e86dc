"""A container that containerd checkpoints, and makes anew from the image of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon import IMAGE, PEERS, VERSIONS, Containerd, wait_for
from .test_containerd import BY_NAME, nothing_is_left

CRIU = PEERS / "criu"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CRIU / "VERSION").exists(), reason=f"{CRIU} is missing: run script/peers"
    ),
]
REF = "test.invalid/checkpoint:1"
COUNT = (
    "me=$(cat /proc/sys/kernel/random/uuid); i=0;"
    "while :; do i=$((i+1)); echo $me $i >/tmp/m; mv /tmp/m /tmp/n; sleep 0.02; done"
)


@pytest.fixture
def _criu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the daemon, and so its shims, find criu; remove what the daemon leaves."""
    monkeypatch.setenv("PATH", f"{CRIU}/bin", prepend=os.pathsep)
    unpacked = f"{tempfile.gettempdir()}/ctrd-checkpoint"
    before = set(Path("/").glob(f"{unpacked[1:]}*"))
    yield
    for directory in set(Path("/").glob(f"{unpacked[1:]}*")) - before:
        shutil.rmtree(directory)


@pytest.mark.usefixtures("_criu")
@pytest.mark.parametrize("way", [BY_NAME, []], ids=["by-name", "in-place"])
@pytest.mark.parametrize("containerd", VERSIONS, indirect=True)
@pytest.mark.feature("checkpoint, and restore as another container")
def test_a_container_is_written_and_restored(
    containerd: Containerd, way: list[str], tmp_path: Path
) -> None:
    """With its memory: what it is, and how far it has counted, goes on elsewhere."""

    def counted(name: str) -> tuple[bytes, int]:
        argv = ("task", "exec", "--exec-id", "e", name, "cat", "/tmp/n")
        words = containerd.ctr(*argv, check=False).stdout.split()
        return (words[0], int(words[1])) if len(words) == 2 else (b"", 0)

    # See tests/shim/test_checkpoint.py for why.
    config = tmp_path / "criu.conf"
    config.write_text("manage-cgroups ignore\n")
    options = [*way, "--annotation", f"org.criu.config={config}"]
    containerd.ctr("run", "-d", *options, IMAGE, "c", "sh", "-c", COUNT)
    wait_for("it to count", lambda: counted("c")[1] > 2)
    before = counted("c")
    with containerd.events() as events:
        parts = ("--task", "--image", "--rw")
        containerd.ctr("containers", "checkpoint", *parts, "c", REF)
        wait_for("the events", lambda: len(events.topics("c")) >= 3)
    assert events.topics("c") == ["paused", "checkpointed", "resumed"]
    containerd.ctr("task", "kill", "-s", "KILL", "c")
    with containerd.events() as events:
        containerd.ctr("containers", "restore", "--rw", "--live", "d", REF)
        wait_for("it to go on", lambda: counted("d")[1] > before[1])
    assert counted("d")[0] == before[0]
    assert events.topics("d")[:2] == ["create", "start"]
    containerd.ctr("task", "kill", "-s", "KILL", "d")
    for name in ("c", "d"):
        # It waits for the end that the kill has begun.
        containerd.ctr("task", "rm", "-f", name)
    nothing_is_left(containerd)
