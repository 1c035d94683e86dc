"""Update: limits of a container that is there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.machine import IS_CGROUP_V2, cgroups_named

from dunnage.api.services import TASK_V2, TASK_V3
from dunnage.errors import NotFound, Unknown

from .harness import Shim, cgroup_of, in_loop
from .hog import limited
from .test_service import refusal

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
URL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
MIB = 1 << 20
MEMORY = "memory.max" if IS_CGROUP_V2 else "memory.limit_in_bytes"
HALF_THE_CPU = ("cpu.weight", "20") if IS_CGROUP_V2 else ("cpu.shares", "512")


def resources(value: Any) -> dict[str, Any]:
    """Return resources as containerd packs them."""
    return {"type_url": URL, "value": json.dumps(value).encode()}


def memory(limit: int) -> dict[str, Any]:
    """Return resources that limit memory."""
    return resources({"memory": {"limit": limit, "swap": limit}})


def found(shim: Shim, file: str) -> str:
    """Return what is in a file of the container's cgroup."""
    name = cgroup_of(shim.bundles / "c")
    (path,) = (p / file for p in cgroups_named(name) if (p / file).exists())
    return path.read_text().strip()


@RUNTIMES
@in_loop
async def test_limits_change(tmp_path: Path, runtime: str) -> None:
    """As long as init has not ended; then it is refused."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", config=limited(["sleep", "1000"], 64 * MIB))
        async with refusal(NotFound, "^container not created$"):
            await shim.call("c", "update", resources=memory(32 * MIB))
        await shim.call("c", "create")
        for methods, limit in ((TASK_V2, 32 * MIB), (TASK_V3, 48 * MIB)):
            await shim.call("c", "update", methods, resources=memory(limit))
            assert str(limit) == found(shim, MEMORY)
        await shim.call("c", "start")
        more = {"pids": {"limit": 77}, "cpu": {"shares": 512}}
        await shim.call("c", "update", resources=resources(more))
        assert "77" == found(shim, "pids.max")
        file, value = HALF_THE_CPU
        assert value == found(shim, file)
        assert str(48 * MIB) == found(shim, MEMORY)
        await shim.call("c", "pause")
        await shim.call("c", "update", resources=memory(40 * MIB))
        assert str(40 * MIB) == found(shim, MEMORY)
        await shim.call("c", "resume")
        await shim.call("c", "kill", signal=9)
        await shim.call("c", "wait")
        async with refusal(Unknown, "^cannot update a stopped container$"):
            await shim.call("c", "update", resources=memory(32 * MIB))
        await shim.call("c", "delete")
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
        kinds = ["Create", "Start", "Paused", "Resumed", "Exit", "Delete"]
        assert kinds == shim.kinds()


@RUNTIMES
@in_loop
async def test_what_makes_no_sense(tmp_path: Path, runtime: str) -> None:
    """It is refused, in the runtime's words where that judges; nothing is nothing."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", config=limited(["sleep", "1000"], 64 * MIB))
        await shim.call("c", "create")
        for value in (b"{", b"[1]", b"\xff"):
            async with refusal(Unknown, "^resources: "):
                packed = {"type_url": URL, "value": value}
                await shim.call("c", "update", resources=packed)
        words = f"^{runtime} did not terminate successfully: exit status 1: ."
        async with refusal(Unknown, words):
            too_short = {"cpu": {"period": 1, "quota": 1}}
            await shim.call("c", "update", resources=resources(too_short))
        await shim.call("c", "update")
        await shim.call("c", "update", annotations={"a": "b"})
        await shim.call("c", "update", resources=resources({}))
        assert str(64 * MIB) == found(shim, MEMORY)
        await shim.call("c", "delete")
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
