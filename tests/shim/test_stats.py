"""Stats: what a container uses, as the kernel counts it, and holding nobody up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.machine import IS_CGROUP_V2

from dunnage.api import metrics_v1_pb2, metrics_v2_pb2, typeurl
from dunnage.api.services import TASK_V2, TASK_V3, TaskMethods
from dunnage.errors import NotFound

from .harness import Shim, in_loop, spec, until
from .hog import limited
from .test_service import refusal

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
LIMIT = 64 << 20
USED = 20 << 20
ONLY_V2 = [
    *("unshare", "-m", "sh", "-c"),
    'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && exec "$@"',
    "sh",
]
"""Runs a command where there is nothing but v2."""
USES = [
    "sh",
    "-c",
    f"dd if=/dev/zero of=/dev/full bs={USED} count=1 2>/dev/null; \
: >/tmp/done; sleep 1000",
]
BOTH = pytest.mark.parametrize("methods", [TASK_V2, TASK_V3], ids=["v2", "v3"])


async def begun(shim: Shim, args: list[str], id_: str = "c") -> None:
    """Run a container."""
    config = limited(args, LIMIT)
    config["linux"]["resources"]["pids"] = {"limit": 50}
    await shim.up(id_, config=config)
    await shim.call(id_, "create")
    await shim.call(id_, "start")


async def ended(shim: Shim) -> None:
    """End the container."""
    await shim.call("c", "kill", signal=9)
    await shim.call("c", "wait")
    await deleted(shim)


async def deleted(shim: Shim) -> None:
    """Delete what has stopped, and see what is said of it then."""
    await shim.call("c", "delete")
    async with refusal(NotFound, "^container not created$"):
        await shim.call("c", "stats")
    await shim.call("c", "shutdown")
    assert [] == await shim.gone("c")


@pytest.mark.skipif(IS_CGROUP_V2, reason="cgroups are v2 here")
@RUNTIMES
@BOTH
@in_loop
async def test_v1(tmp_path: Path, runtime: str, methods: TaskMethods) -> None:
    """What init does is counted, from its creation until its delete."""

    async def stats() -> metrics_v1_pb2.Metrics:
        packed = (await shim.call("c", "stats", methods)).stats
        assert "io.containerd.cgroups.v1.Metrics" == packed.type_url
        return typeurl.unpack(packed, metrics_v1_pb2.Metrics)

    async with Shim(tmp_path, runtime=runtime) as shim:
        await begun(shim, USES)
        await until((shim.rootfs / "tmp/done").exists)
        metrics = await stats()
        assert (1, 50) == (metrics.pids.current, metrics.pids.limit)
        memory = metrics.memory
        assert LIMIT == memory.usage.limit == memory.swap.limit
        assert LIMIT == memory.hierarchical_memory_limit
        assert USED < memory.usage.max <= LIMIT
        assert 0 < memory.rss == memory.total_rss < USED
        assert USED >> 12 <= memory.pg_fault
        assert 0 < metrics.cpu.usage.total
        assert metrics.cpu.usage.total >= sum(metrics.cpu.usage.per_cpu[1:])
        assert 0 == metrics.memory_oom_control.oom_kill
        assert ["lo"] == [each.name for each in metrics.network]
        await shim.call("c", "kill", signal=9)
        await shim.call("c", "wait")
        assert USED < (await stats()).memory.usage.max
        await deleted(shim)


@pytest.mark.skipif(not IS_CGROUP_V2, reason="cgroups are v1 here")
@RUNTIMES
@BOTH
@in_loop
async def test_v2(tmp_path: Path, runtime: str, methods: TaskMethods) -> None:
    """The same where all controllers are v2's."""

    async def stats() -> metrics_v2_pb2.Metrics:
        packed = (await shim.call("c", "stats", methods)).stats
        assert "io.containerd.cgroups.v2.Metrics" == packed.type_url
        return typeurl.unpack(packed, metrics_v2_pb2.Metrics)

    async with Shim(tmp_path, runtime=runtime) as shim:
        await begun(shim, USES)
        await until((shim.rootfs / "tmp/done").exists)
        metrics = await stats()
        assert (1, 50) == (metrics.pids.current, metrics.pids.limit)
        memory = metrics.memory
        assert (LIMIT, 0) == (memory.usage_limit, memory.swap_limit)
        assert USED < memory.max_usage <= LIMIT
        assert 0 < memory.anon < memory.usage < USED
        assert USED >> 12 <= memory.pgfault + (memory.thp_fault_alloc << 9)
        assert 0 < metrics.cpu.usage_usec
        assert 0 == metrics.memory_events.oom_kill
        assert ["lo"] == [each.name for each in metrics.network]
        await shim.call("c", "kill", signal=9)
        await shim.call("c", "wait")
        assert USED < (await stats()).memory.max_usage
        await deleted(shim)


@RUNTIMES
@in_loop
async def test_where_there_is_only_v2(tmp_path: Path, runtime: str) -> None:
    """The message of v2, with what its few files tell here."""
    async with Shim(tmp_path, runtime=runtime, start_prefix=ONLY_V2) as shim:
        await shim.up("c", config=spec(["sleep", "1000"]))
        await shim.call("c", "create")
        await shim.call("c", "start")
        packed = (await shim.call("c", "stats")).stats
        assert "io.containerd.cgroups.v2.Metrics" == packed.type_url
        metrics = typeurl.unpack(packed, metrics_v2_pb2.Metrics)
        assert 0 < metrics.cpu.usage_usec
        assert ["lo"] == [each.name for each in metrics.network]
        await ended(shim)


@in_loop
async def test_many_hold_nobody_up(tmp_path: Path) -> None:
    """Another call is answered long before the last of many that came before it."""
    async with Shim(tmp_path) as shim:
        await begun(shim, ["sleep", "1000"])
        answered: list[str] = []

        async def call(name: str) -> Any:
            await shim.call("c", name)
            answered.append(name)

        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(call("stats"))
            await asyncio.sleep(0)
            group.create_task(call("state"))
        assert answered.index("state") < len(answered) // 2
        await ended(shim)
