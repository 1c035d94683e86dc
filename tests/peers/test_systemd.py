"""A containerd whose containers' cgroups systemd makes, where that is PID 1."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest
from tests.machine import IS_CGROUP_V2

from .daemon import IMAGE, Containerd, wait_for
from .test_containerd import nothing_is_left

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (IS_CGROUP_V2 and Path("/run/systemd/system").exists()),
        reason="cgroups are v1 here, or systemd is not PID 1: see script/test-vm",
    ),
]


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("containerd", ["containerd-1.7"], indirect=True)
def test_a_life_in_a_scope(containerd: Containerd, runtime: str) -> None:
    """Metrics, a pause, and an exec that is killed for want of memory."""
    name = secrets.token_hex(4)
    slice_ = f"dunnage-{name}.slice"
    scope = Path("/sys/fs/cgroup/dunnage.slice", slice_, f"ctr-{name}.scope")
    way = ["--runc-binary", runtime, "--runc-systemd-cgroup"]
    way += ["--cgroup", f"{slice_}:ctr:{name}", "--memory-limit", str(32 << 20)]
    with containerd.events() as events:
        containerd.ctr("run", "-d", *way, IMAGE, "c", "sleep", "1000")
        said = containerd.ctr("task", "metrics", "--format", "json", "c").stdout
        assert 32 << 20 == json.loads(said)["memory"]["usage_limit"]
        containerd.ctr("task", "pause", "c")
        assert any(
            "frozen 1" in file.read_text() for file in scope.rglob("cgroup.events")
        )
        containerd.ctr("task", "resume", "c")
        hog = ["task", "exec", "--exec-id", "e", "c", "tail", "/dev/zero"]
        assert 137 == containerd.ctr(*hog, check=False).returncode
        containerd.ctr("task", "kill", "-s", "KILL", "c")
        wait_for("the exit", lambda: "exit" in events.topics("c"))
        containerd.ctr("task", "delete", "c", check=False)
        expected = ["create", "start", "paused", "resumed", "exec-added"]
        expected += ["exec-started", "oom", "exit e", "delete e", "exit", "delete"]
        wait_for("the events", lambda: len(events.topics("c")) >= len(expected))
    assert events.topics("c") == expected
    containerd.ctr("container", "delete", "c")
    nothing_is_left(containerd)
    wait_for("systemd", lambda: not scope.exists())
