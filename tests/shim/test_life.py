"""Whole lives of containers, through the shim binary."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from dunnage.api.services import TASK_V3

from .harness import Shim, fifo_reader

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("params", [False, True])
def test_a_whole_life_with_an_exec(tmp_path: Path, runtime: str, params: bool) -> None:
    """Output, statuses and all events of init and an exec, in order; nothing left."""

    async def main() -> None:
        async with Shim(tmp_path, runtime=runtime, params=params) as shim:
            await shim.up("c", ["sh", "-c", "echo out; read line; exit 3"])
            out, stdin = tmp_path / "out", tmp_path / "in"
            async with fifo_reader(out) as said:
                os.mkfifo(stdin)
                created = await shim.call(
                    "c", "create", stdin=str(stdin), stdout=str(out)
                )
                started = await shim.call("c", "start", methods=TASK_V3)
                assert created.pid == started.pid
                await shim.exec("c", "e", ["sh", "-c", "exit 4"])
                exec_started = await shim.call("c", "start", exec_id="e")
                exec_wait = await shim.call("c", "wait", exec_id="e")
                assert exec_wait.exit_status == 4
                deleted = await shim.call("c", "delete", exec_id="e")
                assert (deleted.pid, deleted.exit_status) == (exec_started.pid, 4)
                wait = asyncio.create_task(shim.call("c", "wait"))
                stdin.write_text("go\n")
                assert (await wait).exit_status == 3
                assert await said == b"out\n"
            deleted = await shim.call("c", "delete")
            assert (deleted.pid, deleted.exit_status) == (created.pid, 3)
            await shim.call("c", "shutdown")
            left = await shim.gone("c")
            assert left == []
            assert shim.kinds() == [
                "Create",
                "Start",
                "ExecAdded",
                "ExecStarted",
                "Exit e",
                "Delete e",
                "Exit",
                "Delete",
            ]

    asyncio.run(main())
