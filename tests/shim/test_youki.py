"""A third runtime, named by its path: youki gets what runc gets, and gives as much."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.machine import IS_CGROUP_V2

from dunnage.api import metrics_v1_pb2, metrics_v2_pb2, typeurl
from dunnage.api.task_v2_pb2 import DeleteResponse
from dunnage.errors import Unknown

from .harness import Shim, fifo_reader, in_loop, spec

PEERS = Path(os.environ.get("DUNNAGE_PEERS", Path(__file__).parents[2] / ".peers"))
YOUKI = PEERS / "youki/usr/bin/youki"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not YOUKI.exists(), reason="script/peers youki was not run"),
]


def youki(directory: Path) -> Shim:
    """Return a shim whose containers are youki's."""
    return Shim(directory, runtime=str(YOUKI))


async def over(shim: Shim) -> None:
    """Delete what has stopped, and see that nothing is left."""
    await shim.call("c", "delete")
    await shim.call("c", "shutdown")
    assert [] == await shim.gone("c")


@in_loop
async def test_a_life(tmp_path: Path) -> None:
    """Streams, an exec, a pause, what is running, what it takes, and a kill."""
    out = tmp_path / "out"
    async with youki(tmp_path) as shim:
        async with fifo_reader(out) as said_by_it:
            await shim.up("c", ["sh", "-c", "echo hello; exec sleep 1000 >/dev/null"])
            await shim.call("c", "create", stdout=str(out))
            pid = (await shim.call("c", "start")).pid
            await shim.exec("c", "e", ["sh", "-c", "exit 7"])
            await shim.call("c", "start", exec_id="e")
            assert 7 == (await shim.call("c", "wait", exec_id="e")).exit_status
            await shim.call("c", "delete", exec_id="e")
            assert pid in {p.pid for p in (await shim.call("c", "pids")).processes}
            await shim.call("c", "pause")
            await shim.call("c", "resume")
            stats = (await shim.call("c", "stats")).stats
            kind = (metrics_v2_pb2 if IS_CGROUP_V2 else metrics_v1_pb2).Metrics
            assert 1 <= typeurl.unpack(stats, kind).pids.current
            await shim.call("c", "kill", signal=9)
            assert 137 == (await shim.call("c", "wait")).exit_status
            await over(shim)
            assert b"hello\n" == await said_by_it
        said = ["Create", "Start", "ExecAdded", "ExecStarted", "Exit e", "Delete e"]
        assert [*said, "Paused", "Resumed", "Exit", "Delete"] == shim.kinds()


@in_loop
async def test_what_cannot_be_run(tmp_path: Path) -> None:
    """Its own words of why; nothing is left, and an exec that fails harms nobody."""
    async with youki(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        await shim.exec("c", "e", ["/nothing"])
        with pytest.raises(Unknown, match=r"OCI runtime exec failed: ."):
            await shim.call("c", "start", exec_id="e")
        await shim.call("c", "delete", exec_id="e")
        await shim.call("c", "kill", signal=9)
        await shim.call("c", "wait")
        await over(shim)
    (tmp_path / "2").mkdir()
    async with youki(tmp_path / "2") as shim:
        config = spec(["true"])
        config["root"]["path"] = "/nothing/at/all"
        await shim.up("c", config=config)
        with pytest.raises(Unknown, match=r"OCI runtime create failed: ."):
            await shim.call("c", "create", rootfs=[])
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")


@in_loop
async def test_of_a_dead_shim(tmp_path: Path) -> None:
    """`delete` finds the runtime by what was noted."""
    async with youki(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        await shim.kill_shim("c")
        done = shim.delete_action("c")
        assert 137 == DeleteResponse.FromString(done.stdout).exit_status
        assert b"" == done.stderr
        assert [] == await shim.gone("c")
