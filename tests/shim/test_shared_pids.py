"""Containers that share a pid namespace: whose processes end with whose init."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .harness import Shim, ended, in_loop, is_alive, spec, until

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
NAMESPACES = [{"type": kind} for kind in ("ipc", "uts", "mount", "network")]
# An orphan of it stays in the namespace, and in the cgroup.
FORKING = "(sleep 1000 & ) ; sleep 1000 & : >/tmp/forked-%s; wait"


def in_pod(id_: str, args: list[str], pid_namespace: dict[str, str] | None) -> Any:
    """Return a spec in the pod; the pid namespace is the host's if it is None."""
    config = spec(args, annotations={"io.kubernetes.cri.sandbox-id": "pod"})
    own = [] if pid_namespace is None else [{"type": "pid"} | pid_namespace]
    config["linux"]["namespaces"] = NAMESPACES + own
    config["linux"]["cgroupsPath"] += f"-{id_}"
    return config


async def run(
    shim: Shim, id_: str, args: list[str], pid_namespace: dict[str, str] | None
) -> int:
    """Run a container of the pod; return the pid of its init."""
    await shim.up(id_, config=in_pod(id_, args, pid_namespace))
    await shim.call(id_, "create")
    return int((await shim.call(id_, "start")).pid)


async def run_app(
    shim: Shim, id_: str, pid_namespace: dict[str, str] | None
) -> list[int]:
    """Run a container with an orphan, a child and an exec; return all their pids."""
    await run(shim, id_, ["sh", "-c", FORKING % id_], pid_namespace)
    await until((shim.rootfs / f"tmp/forked-{id_}").exists)
    await shim.exec(id_, "e", ["sleep", "1000"])
    await shim.call(id_, "start", exec_id="e")
    pids = [p.pid for p in (await shim.call(id_, "pids")).processes]
    assert 4 == len(pids)
    return pids


async def dies(shim: Shim, id_: str, pids: list[int]) -> None:
    """Expect the init of an app to be dead, all its others with it, in order."""
    assert 137 == (await shim.call(id_, "wait")).exit_status
    for pid in pids:
        await ended(pid)
    assert 137 == (await shim.call(id_, "delete")).exit_status
    said = ["Create", "Start", "ExecAdded", "ExecStarted"]
    await shim.wait_for_event("TaskDelete", container_id=id_, id="")
    assert [*said, "Exit e", "Exit", "Delete e", "Delete"] == shim.kinds(id_)


async def is_unhurt(shim: Shim, id_: str, pids: list[int]) -> None:
    """Expect a container to run, with all it had."""
    assert all(map(is_alive, pids))
    await shim.exec(id_, "check", ["sh", "-c", "exit 4"])
    await shim.call(id_, "start", exec_id="check")
    assert 4 == (await shim.call(id_, "wait", exec_id="check")).exit_status
    await shim.call(id_, "delete", exec_id="check")


@RUNTIMES
@in_loop
async def test_the_host_s(tmp_path: Path, runtime: str) -> None:
    """All of a container in the host's pid namespace ends with it; none of another."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        first = await run_app(shim, "a", None)
        second = await run(shim, "b", ["sleep", "1000"], None)
        await shim.call("a", "kill", signal=9)
        await dies(shim, "a", first)
        await is_unhurt(shim, "b", [second])
        await shim.call("b", "kill", signal=9)
        assert 137 == (await shim.call("b", "wait")).exit_status
        await shim.call("b", "delete")
        await shim.call("b", "shutdown")
        assert [] == await shim.gone("b")
        assert [] == await shim.gone("a")


@RUNTIMES
@in_loop
async def test_a_pod_s(tmp_path: Path, runtime: str) -> None:
    """The end of one hurts neither its sibling nor the owner; the owner's ends all."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        owner = await run(shim, "pod", ["sleep", "1000"], {})
        shared = {"path": f"/proc/{owner}/ns/pid"}
        first = await run_app(shim, "a", shared)
        second = await run_app(shim, "b", shared)
        await shim.call("a", "kill", signal=9)
        await dies(shim, "a", first)
        await is_unhurt(shim, "pod", [owner])
        assert all(map(is_alive, second))
        assert 4 == len((await shim.call("b", "pids")).processes)
        await shim.call("pod", "kill", signal=9)
        assert 137 == (await shim.call("pod", "wait")).exit_status
        await dies(shim, "b", second)
        await shim.call("pod", "delete")
        await shim.call("pod", "shutdown")
        for id_ in ("pod", "a", "b"):
            assert [] == await shim.gone(id_)
