"""Lives whose cgroups systemd makes: scopes, and the slices that they are in."""

from __future__ import annotations

import json
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.shim.harness import Shim, ended, in_loop, is_alive, spec, until
from tests.shim.hog import HOG

from dunnage.api import metrics_v2_pb2, typeurl
from dunnage.api.task_v2_pb2 import DeleteResponse

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
ROOT = Path("/sys/fs/cgroup")
LIMIT = 16 << 20


@dataclass(frozen=True)
class Scope:
    """A scope of a test's own, in a slice in a slice."""

    name: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def cgroups_path(self) -> str:
        """The words of a spec."""
        return f"dunnage-{self.name}.slice:test:{self.name}"

    @property
    def unit(self) -> str:
        """The name of systemd's unit."""
        return f"test-{self.name}.scope"

    @property
    def group(self) -> Path:
        """The cgroup that systemd makes."""
        return ROOT / "dunnage.slice" / f"dunnage-{self.name}.slice" / self.unit

    def spec(self, args: list[str], **resources: Any) -> dict[str, Any]:
        """Return a spec in it."""
        config = spec(args)
        config["linux"]["cgroupsPath"] = self.cgroups_path
        config["linux"]["resources"] = resources
        return config

    def is_active(self) -> bool:
        """Whether systemd has the unit."""
        argv = ["systemctl", "is-active", "--quiet", self.unit]
        return subprocess.run(argv, check=False).returncode == 0

    def members(self) -> set[int]:
        """Return the pids in it; crun has a cgroup of its own in a scope."""
        files = self.group.rglob("cgroup.procs")
        return {int(pid) for file in files for pid in file.read_text().split()}


def is_frozen(pid: int) -> bool:
    """Whether the kernel has frozen a process's cgroup."""
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")
    return "frozen 1" in (ROOT / path / "cgroup.events").read_text()


async def begun(
    shim: Shim, scope: Scope, args: list[str], *, asked: bool = True, **resources: Any
) -> int:
    """Run a container; return the pid of its init."""
    await shim.up("c", config=scope.spec(args, **resources))
    await shim.call("c", "create", options=shim.options(systemd_cgroup=asked))
    pid = int((await shim.call("c", "start")).pid)
    assert scope.is_active()
    assert pid in scope.members()
    return pid


async def leaves_nothing(shim: Shim, scope: Scope) -> None:
    """Delete what has stopped: systemd forgets the unit, and the cgroup is gone."""
    await shim.call("c", "delete")
    await shim.call("c", "shutdown")
    assert [] == await shim.gone("c")
    await until(lambda: not scope.group.exists())
    assert not scope.is_active()


@RUNTIMES
@pytest.mark.parametrize("asked", [True, False], ids=["options", "spec"])
@in_loop
async def test_a_life(tmp_path: Path, runtime: str, asked: bool) -> None:
    """An exec, a pause in which the kernel freezes, and a kill: all in the scope.

    Whether the options ask for systemd, or only the form of the spec's path does.
    """
    scope = Scope()
    async with Shim(tmp_path, runtime=runtime) as shim:
        pid = await begun(shim, scope, ["sleep", "1000"], asked=asked)
        await shim.exec("c", "e", ["sleep", "1000"])
        exec_pid = (await shim.call("c", "start", exec_id="e")).pid
        assert {pid, exec_pid} == scope.members()
        await shim.call("c", "pause")
        assert is_frozen(pid)
        assert is_frozen(exec_pid)
        await shim.call("c", "resume")
        assert not is_frozen(pid)
        await shim.call("c", "kill", signal=9)
        assert 137 == (await shim.call("c", "wait", exec_id="e")).exit_status
        assert 137 == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete", exec_id="e")
        await leaves_nothing(shim, scope)
        said = ["Create", "Start", "ExecAdded", "ExecStarted", "Paused", "Resumed"]
        assert [*said, "Exit e", "Exit", "Delete e", "Delete"] == shim.kinds()


@RUNTIMES
@in_loop
async def test_killed_while_paused(tmp_path: Path, runtime: str) -> None:
    """What is frozen dies all the same, and nothing stays."""
    scope = Scope()
    async with Shim(tmp_path, runtime=runtime) as shim:
        pid = await begun(shim, scope, ["sleep", "1000"])
        await shim.call("c", "pause")
        await shim.call("c", "kill", signal=9)
        await ended(pid)
        assert 137 == (await shim.call("c", "wait")).exit_status
        await leaves_nothing(shim, scope)


@RUNTIMES
@in_loop
async def test_all_are_killed(tmp_path: Path, runtime: str) -> None:
    """In the host's pid namespace, where the kernel does not end them with init."""
    scope = Scope()
    config = scope.spec(["sh", "-c", "sleep 1000 & sleep 1000 & : >/tmp/forked; wait"])
    config["linux"]["namespaces"] = [
        kind for kind in config["linux"]["namespaces"] if kind["type"] != "pid"
    ]
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", config=config)
        await shim.call("c", "create", options=shim.options(systemd_cgroup=True))
        await shim.call("c", "start")
        await until((shim.rootfs / "tmp/forked").exists)
        pids = scope.members()
        assert 3 == len(pids)
        await shim.call("c", "kill", signal=9)
        assert 137 == (await shim.call("c", "wait")).exit_status
        for pid in pids:
            await ended(pid)
        await leaves_nothing(shim, scope)


@RUNTIMES
@in_loop
async def test_a_dead_shim_s(tmp_path: Path, runtime: str) -> None:
    """The delete action ends what runs, and the unit with it."""
    scope = Scope()
    async with Shim(tmp_path, runtime=runtime) as shim:
        pid = await begun(shim, scope, ["sleep", "1000"])
        await shim.kill_shim("c")
        done = shim.delete_action("c")
        assert 137 == DeleteResponse.FromString(done.stdout).exit_status
        assert b"" == done.stderr
        assert not is_alive(pid)
        assert [] == await shim.gone("c")
        await until(lambda: not scope.group.exists())
        assert not scope.is_active()


@RUNTIMES
@in_loop
async def test_an_oom_kill(tmp_path: Path, runtime: str) -> None:
    """oom-before-exit: of an exec, and then of init."""
    scope = Scope()
    memory = {"limit": LIMIT, "swap": LIMIT}
    async with Shim(tmp_path, runtime=runtime) as shim:
        script = "until [ -e /tmp/go ]; do sleep 0.1; done; exec tail /dev/zero"
        await begun(shim, scope, ["sh", "-c", script], memory=memory)
        await shim.exec("c", "e", HOG)
        await shim.call("c", "start", exec_id="e")
        assert 137 == (await shim.call("c", "wait", exec_id="e")).exit_status
        await shim.call("c", "delete", exec_id="e")
        (shim.rootfs / "tmp/go").touch()
        assert 137 == (await shim.call("c", "wait")).exit_status
        await leaves_nothing(shim, scope)
        said = ["ExecAdded", "ExecStarted", "OOM", "Exit e", "Delete e"]
        assert ["Create", "Start", *said, "OOM", "Exit", "Delete"] == shim.kinds()


@RUNTIMES
@in_loop
async def test_stats_and_update(tmp_path: Path, runtime: str) -> None:
    """The scope's counts; and a new limit, of which systemd knows as well."""
    scope = Scope()
    async with Shim(tmp_path, runtime=runtime) as shim:
        await begun(shim, scope, ["sleep", "1000"], memory={"limit": 4 * LIMIT})

        async def memory() -> metrics_v2_pb2.MemoryStat:
            packed = (await shim.call("c", "stats")).stats
            metrics = typeurl.unpack(packed, metrics_v2_pb2.Metrics)
            assert 1 == metrics.pids.current
            return metrics.memory

        assert 4 * LIMIT == (await memory()).usage_limit
        assert 0 < (await memory()).usage < 4 * LIMIT
        limit = {"memory": {"limit": 2 * LIMIT}}
        packed = {"type_url": "x", "value": json.dumps(limit).encode()}
        await shim.call("c", "update", resources=packed)
        assert 2 * LIMIT == (await memory()).usage_limit
        argv = ["systemctl", "show", "--property=MemoryMax", "--value", scope.unit]
        told = subprocess.run(argv, capture_output=True, check=True)
        assert 2 * LIMIT == int(told.stdout)
        await shim.call("c", "kill", signal=9)
        await shim.call("c", "wait")
        await leaves_nothing(shim, scope)
