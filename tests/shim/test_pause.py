"""Pause and resume: what freezes, what is refused meanwhile, and that all can die."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dunnage.api import process_pb2
from dunnage.errors import Unknown

from .harness import Shim, ended, in_loop, is_alive, proc_status, spec, until
from .test_service import gated, refusal

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
PAUSED = process_pb2.PAUSED
PAUSING = process_pb2.PAUSING
RUNNING = process_pb2.RUNNING
STOPPED = process_pb2.STOPPED
HOST_PID = {
    "namespaces": [{"type": kind} for kind in ("ipc", "uts", "mount", "network")]
}


async def begun(shim: Shim, args: list[str], **changes: Any) -> int:
    """Run a container ``c``; return the pid of its init."""
    await shim.up("c", config=spec(args, **changes))
    await shim.call("c", "create")
    return int((await shim.call("c", "start")).pid)


async def status(shim: Shim, exec_id: str = "") -> int:
    """Return what State says."""
    return int((await shim.call("c", "state", exec_id=exec_id)).status)


def grown(file: Path, size: int) -> bool:
    """Whether a file is longer than it was."""
    return file.stat().st_size > size


@RUNTIMES
@in_loop
async def test_frozen_and_thawed(tmp_path: Path, runtime: str) -> None:
    """Nothing runs between TaskPaused and TaskResumed, and it goes on afterwards."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        script = "while :; do echo >>/tmp/ticks; sleep 0.01; done"
        await begun(shim, ["sh", "-c", script])
        ticks = shim.rootfs / "tmp/ticks"
        await until(ticks.exists)
        await shim.exec("c", "e", ["sleep", "1000"])
        await shim.call("c", "start", exec_id="e")
        for _ in range(2):
            await shim.call("c", "pause")
            assert [PAUSED, PAUSED] == [await status(shim), await status(shim, "e")]
            async with refusal(Unknown, "^cannot pause a paused container$"):
                await shim.call("c", "pause")
            async with refusal(Unknown, "^cannot exec in a paused state$"):
                await shim.exec("c", "f", ["true"])
            async with refusal(Unknown, "^cannot delete a paused process$"):
                await shim.call("c", "delete")
            frozen = ticks.stat().st_size
            assert 2 <= len((await shim.call("c", "pids")).processes)
            assert frozen == ticks.stat().st_size
            await shim.call("c", "resume")
            assert [RUNNING, RUNNING] == [await status(shim), await status(shim, "e")]
            async with refusal(Unknown, "^cannot resume a running process$"):
                await shim.call("c", "resume")
            await until(partial(grown, ticks, frozen))
        await shim.call("c", "kill", signal=9)
        assert 137 == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete")
        kinds = shim.kinds()
        assert ["Paused", "Resumed"] * 2 == kinds[4:8]
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")


@RUNTIMES
@pytest.mark.parametrize("pids", ["own", "host"])
@in_loop
async def test_killed_while_paused(tmp_path: Path, runtime: str, pids: str) -> None:
    """A SIGKILL of what is frozen ends it and all others, and its exit is said last."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        linux = {"cgroupsPath": f"/{shim.namespace}"}
        changes = {"linux": HOST_PID | linux} if pids == "host" else {}
        script = "sleep 1000 & : >/tmp/forked; wait"
        await begun(shim, ["sh", "-c", script], **changes)
        await until((shim.rootfs / "tmp/forked").exists)
        await shim.exec("c", "e", ["sleep", "1000"])
        await shim.call("c", "start", exec_id="e")
        all_pids = [p.pid for p in (await shim.call("c", "pids")).processes]
        assert 3 == len(all_pids)
        await shim.call("c", "pause")
        await shim.call("c", "kill", signal=9)
        assert 137 == (await shim.call("c", "wait", exec_id="e")).exit_status
        assert 137 == (await shim.call("c", "wait")).exit_status
        for pid in all_pids:
            await ended(pid)
        assert 137 == (await shim.call("c", "delete")).exit_status
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
        assert ["Paused", "Exit e", "Exit", "Delete e", "Delete"] == shim.kinds()[-5:]


@RUNTIMES
@in_loop
async def test_a_gentle_signal_waits_for_the_thaw(tmp_path: Path, runtime: str) -> None:
    """Any other signal is kept by the kernel, and acts after the resume."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        script = "trap 'exit 5' TERM; : >/tmp/ready; while :; do sleep 0.01; done"
        pid = await begun(shim, ["sh", "-c", script])
        await until((shim.rootfs / "tmp/ready").exists)
        await shim.call("c", "pause")
        await shim.call("c", "kill", signal=15)
        assert int(proc_status(pid)["ShdPnd"], 16) | int(proc_status(pid)["SigPnd"], 16)
        assert PAUSED == await status(shim)
        await shim.call("c", "resume")
        assert 5 == (await shim.call("c", "wait")).exit_status
        assert STOPPED == await status(shim)


@RUNTIMES
@in_loop
async def test_an_exec_of_a_paused_container(tmp_path: Path, runtime: str) -> None:
    """One that was added before is refused by the runtime, and may be deleted."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await begun(shim, ["sleep", "1000"])
        await shim.exec("c", "e", ["sleep", "1000"])
        await shim.call("c", "pause")
        async with refusal(Unknown, "^OCI runtime exec failed: .*paused"):
            await shim.call("c", "start", exec_id="e")
        await shim.call("c", "delete", exec_id="e")
        await shim.call("c", "resume")
        await shim.exec("c", "e", ["sh", "-c", "exit 4"])
        await shim.call("c", "start", exec_id="e")
        assert 4 == (await shim.call("c", "wait", exec_id="e")).exit_status


@in_loop
async def test_pausing_is_seen(tmp_path: Path) -> None:
    """While the runtime freezes, State says so, and Kill does not wait for it."""
    async with Shim(tmp_path) as shim:
        with gated(shim, "pause") as gate:
            await begun(shim, ["sleep", "1000"])
            pausing = asyncio.create_task(shim.call("c", "pause"))
            await gate.reached()
            assert PAUSING == await status(shim)
            await shim.call("c", "kill", signal=0)
            gate.open()
            await pausing
            assert PAUSED == await status(shim)


@RUNTIMES
@in_loop
async def test_a_kill_that_a_pause_overtakes(tmp_path: Path, runtime: str) -> None:
    """What has a SIGKILL pending when it is frozen is let die all the same."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        # Its pause has frozen, and is not heard of before the kill was.
        program = tmp_path / "late"
        program.write_text(
            "#!/bin/sh\n"
            f'{runtime} "$@" || exit\n'
            f'case " $* " in *" pause "*) : >{tmp_path}/frozen\n'
            f"read x <{tmp_path}/gate;; esac\n"
        )
        program.chmod(0o755)
        os.mkfifo(tmp_path / "gate")
        shim.runtime = str(program)
        pid = await begun(shim, ["sleep", "1000"])
        pausing = asyncio.create_task(shim.call("c", "pause"))
        await until((tmp_path / "frozen").exists)
        await shim.call("c", "kill", signal=9)
        (tmp_path / "gate").write_text("\n")
        await pausing
        await ended(pid)
        assert 137 == (await shim.call("c", "wait")).exit_status
        assert not is_alive(pid)
        assert "Exit" == shim.kinds()[-1]


@in_loop
async def test_a_runtime_that_cannot_pause(tmp_path: Path) -> None:
    """Its words are the answer, nothing is said, and the container runs on."""
    runtime = tmp_path / "stiff"
    runtime.write_text(
        "#!/bin/sh\n"
        'case " $* " in *" pause "*) while [ "$1" != --log ]; do shift; done\n'
        'echo \'{"level":"error","msg":"too cold"}\' >>$2; exit 1;; esac\n'
        'exec runc "$@"\n'
    )
    runtime.chmod(0o755)
    async with Shim(tmp_path, runtime=str(runtime)) as shim:
        await begun(shim, ["sleep", "1000"])
        async with refusal(Unknown, "^OCI runtime pause failed: too cold$"):
            await shim.call("c", "pause")
        assert RUNNING == await status(shim)
        assert ["Create", "Start"] == shim.kinds()
