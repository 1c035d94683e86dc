"""OOM kills: told before the exit that they caused, and never for nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.machine import cgroups_named

from .harness import Shim, in_loop, until
from .hog import HOG, a_pod, limited

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
KILLED = 137


async def begun(shim: Shim, id_: str, config: dict[str, Any]) -> None:
    """Run a container."""
    await shim.up(id_, config=config)
    await shim.call(id_, "create")
    await shim.call(id_, "start")


async def over(shim: Shim, id_: str = "c") -> None:
    """End a container, and see that nothing is left."""
    await shim.call(id_, "kill", signal=9)
    await shim.call(id_, "wait")
    await shim.call(id_, "delete")
    await shim.call(id_, "shutdown")
    assert [] == await shim.gone(id_)


@RUNTIMES
@in_loop
async def test_init(tmp_path: Path, runtime: str) -> None:
    """A kill of init is told once, before its exit."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await begun(shim, "c", limited(HOG))
        assert KILLED == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete")
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
        assert ["Create", "Start", "OOM", "Exit", "Delete"] == shim.kinds()


@RUNTIMES
@in_loop
async def test_exec(tmp_path: Path, runtime: str) -> None:
    """A kill of an exec is told before its exit, of another that lives nothing."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await begun(shim, "c", limited(["sleep", "1000"]))
        await shim.exec("c", "e", HOG)
        await shim.call("c", "start", exec_id="e")
        assert KILLED == (await shim.call("c", "wait", exec_id="e")).exit_status
        await shim.call("c", "delete", exec_id="e")
        await over(shim)
        said = ["ExecAdded", "ExecStarted", "OOM", "Exit e", "Delete e"]
        assert ["Create", "Start", *said, "Exit", "Delete"] == shim.kinds()


@RUNTIMES
@in_loop
async def test_grandchild(tmp_path: Path, runtime: str) -> None:
    """A kill of what is no child of ours is told while the container lives on."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        script = "tail /dev/zero; : >/tmp/killed; sleep 1000"
        await begun(shim, "c", limited(["sh", "-c", script]))
        await until((shim.rootfs / "tmp/killed").exists)
        await shim.wait_for_event("TaskOOM")
        await over(shim)
        assert ["Create", "Start", "OOM", "Exit", "Delete"] == shim.kinds()


@RUNTIMES
@in_loop
async def test_before_the_start(tmp_path: Path, runtime: str) -> None:
    """A kill of what was created and waits is told, before an exit without a start."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        config = limited(["true"])
        await shim.up("c", config=config)
        pid = (await shim.call("c", "create")).pid
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        (group,) = (
            path
            for path in cgroups_named(config["linux"]["cgroupsPath"])
            if (path / "memory.stat").exists()
        )
        spared = "echo -900 >/proc/$$/oom_score_adj"  # as long as there is another
        join = f"{spared}; echo $$ >{group}/cgroup.procs; exec tail /dev/zero"
        hog = await asyncio.create_subprocess_exec("busybox", "sh", "-c", join)
        assert KILLED == (await shim.call("c", "wait")).exit_status
        await hog.wait()
        await shim.call("c", "delete")
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
        first, *ooms, last, gone = shim.kinds()  # the hog is the next
        assert ["Create", "Exit", "Delete"] == [first, last, gone]
        assert ooms in (["OOM"], ["OOM"] * 2)


@RUNTIMES
@in_loop
async def test_limit_of_a_pod(tmp_path: Path, runtime: str) -> None:
    """Only who has lost something is said to have, though a sibling has news, too."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        with a_pod() as pod:
            await _limit_of_a_pod(shim, pod)


async def _limit_of_a_pod(shim: Shim, pod: str) -> None:
    await begun(shim, "sibling", limited(["sleep", "1000"], 0, pod))
    await begun(shim, "c", limited(HOG, 0, pod))
    assert KILLED == (await shim.call("c", "wait")).exit_status
    await shim.call("c", "delete")
    await asyncio.sleep(0.1)
    await shim.call("c", "shutdown")
    await over(shim, "sibling")
    assert ["Create", "Start", "OOM", "Exit", "Delete"] == shim.kinds("c")
    assert ["Create", "Start", "Exit", "Delete"] == shim.kinds("sibling")
