"""A shim that nobody ever used leaves; any other stays."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.machine import pids_with

from dunnage.shim.idle import unwanted
from dunnage.testing.pair import connect_to
from dunnage.ttrpc.aio.server import Server

from .altered import altered
from .harness import Shim, ended, in_loop, is_alive, spec, until

LIMIT_S = 0.05


@in_loop
async def test_it_counts_from_the_last_connection() -> None:
    """Nobody is gone for long as long as somebody is there, however often they come."""
    server = Server()
    client = connect_to(server)
    waiting = asyncio.create_task(unwanted(server, lambda: False, LIMIT_S))
    began = asyncio.get_running_loop().time()
    done, _ = await asyncio.wait([waiting], timeout=3 * LIMIT_S)
    assert not done
    client.close()
    await until(lambda: not server.connections)
    assert server.idle_since is not None
    assert server.idle_since > began + 2 * LIMIT_S
    assert await waiting
    assert asyncio.get_running_loop().time() >= server.idle_since + LIMIT_S


@in_loop
async def test_a_shim_with_a_past_is_never_unwanted() -> None:
    """Once there was a task the shim waits for Shutdown."""
    assert not await unwanted(Server(), lambda: True, LIMIT_S)


@pytest.mark.slow
@in_loop
async def test_the_shim_of_a_dead_daemon_leaves(tmp_path: Path) -> None:
    """leaves-clean: started and never connected to, it is gone after a while."""
    binary = altered(tmp_path, _IDLE_LIMIT_S=0.5)
    (tmp_path / "s").mkdir()
    async with Shim(tmp_path / "s", binary) as shim:
        shim.bundle("c", spec(["true"]))
        done = await asyncio.to_thread(shim.start_action, "c")
        assert 0 == done.returncode, done
        assert [] == await shim.gone("c")
        assert "level=error" not in shim.log("c")
        # Its place is free.
        again = await asyncio.to_thread(shim.start_action, "c")
        assert (0, done.stdout) == (again.returncode, again.stdout)
        await shim.gone("c")


@pytest.mark.slow
@in_loop
async def test_the_shim_of_a_paused_daemon_stays(tmp_path: Path) -> None:
    """A connection, and later a task that was, keep it, however long nobody speaks."""
    binary = altered(tmp_path, _IDLE_LIMIT_S=0.2)
    (tmp_path / "s").mkdir()
    async with Shim(tmp_path / "s", binary) as shim:
        client = await shim.up("c", ["true"])
        server = (await shim.call("c", "connect")).shim_pid
        began = time.monotonic()
        await until(lambda: time.monotonic() > began + 1)
        assert is_alive(server)
        await shim.call("c", "create")
        client.close()
        began = time.monotonic()
        await until(lambda: time.monotonic() > began + 1)
        assert is_alive(server)
        await shim.reconnect("c")
        await shim.call("c", "kill", signal=9)
        await shim.call("c", "delete")
        await shim.call("c", "shutdown")
        await ended(server)
        assert [] == pids_with(shim.namespace)
