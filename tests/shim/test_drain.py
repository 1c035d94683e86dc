"""What a shim that was told to leave still says, and what it says of the rest."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from dunnage.api.services import TASK_V2
from dunnage.conformance.decoder import decode
from dunnage.conformance.oracle import judge
from dunnage.errors import InvalidArgument, ResourceExhausted, Unimplemented
from dunnage.shim import daemon as shim_daemon
from dunnage.testing.daemon import HANGING, FakeDaemon, refused, taken

from .altered import altered
from .harness import LIMIT_S, Shim, ended, in_loop, is_alive, until
from .test_daemon import socket_of
from .test_service import gated

pytestmark = pytest.mark.slow

EXECS = 5
LIFE = 4 * (EXECS + 1)


async def live(shim: Shim) -> int:
    """Have a container and its execs live and be deleted; return the shim's pid."""
    await shim.up("c", ["sleep", "1000"])
    await shim.call("c", "create")
    await shim.call("c", "start")
    for number in range(EXECS):
        exec_id = f"e{number}"
        await shim.exec("c", exec_id, ["true"])
        await shim.call("c", "start", exec_id=exec_id)
        await shim.call("c", "wait", exec_id=exec_id)
        await shim.call("c", "delete", exec_id=exec_id)
    await shim.call("c", "kill", signal=9)
    await shim.call("c", "wait")
    await shim.call("c", "delete")
    return int((await shim.call("c", "connect")).shim_pid)


@in_loop
async def test_no_call_waits_for_the_daemon(tmp_path: Path) -> None:
    """Each has its answer while the first event is left unanswered, all in order after.

    But Shutdown, which waits a little.
    """
    everything = {method.name for method in TASK_V2}
    later = {"Checkpoint", "Stats", "Update"}
    asked: set[str] = set()
    async with Shim(tmp_path) as shim:

        async def call(name: str, **fields: Any) -> Any:
            asked.add(getattr(TASK_V2, name).name)
            return await shim.call("c", name, **fields)

        await shim.close_events()
        async with FakeDaemon(f"{shim.address}.ttrpc", then=HANGING) as daemon:
            await shim.up("c", ["sleep", "1000"])
            await call("create")
            await call("start")
            await shim.exec("c", "e", ["sleep", "1000"])
            asked.add("Exec")
            await call("start", exec_id="e")
            await call("pause")
            assert 4 == (await call("state")).status  # paused
            await call("resume")
            assert 2 == len((await call("pids")).processes)
            await call("resize_pty", exec_id="e", width=1, height=1)
            await call("close_io", exec_id="e", stdin=True)
            server = (await call("connect")).shim_pid
            for fields in ({"exec_id": "e"}, {}):
                await call("kill", signal=9, **fields)
                assert 137 == (await call("wait", **fields)).exit_status
                await call("delete", **fields)
            assert 1 == len(daemon.heard)
            shutdown = asyncio.create_task(call("shutdown"))
            await until(lambda: not socket_of(shim, "c").exists())
            daemon.then = taken()
            daemon.wake()
            await shutdown
            await ended(server)
            assert everything - later == asked
            stream = [decode(data) for data in daemon.stream()]
            assert [] == judge(stream, is_whole=True)
            assert 10 == len(stream)
            assert [] == daemon.inexcusable()


@in_loop
async def test_the_drain_goes_on_past_the_answer(tmp_path: Path) -> None:
    """leaves-clean: unlinked first, answered within the daemon's limit, all is said."""
    async with Shim(tmp_path) as shim:
        await shim.close_events()
        async with FakeDaemon(f"{shim.address}.ttrpc", then=taken(0.3)) as daemon:
            server = await live(shim)
            began = time.monotonic()
            await shim.call("c", "shutdown")
            assert time.monotonic() - began < 3
            assert len(daemon.stream()) < LIFE - 1
            assert is_alive(server)
            # A successor with the same id does not meet it.
            assert not socket_of(shim, "c").exists()
            again = await asyncio.to_thread(shim.start_action, "c")
            await shim.connect("c", again.stdout)
            assert server != (await shim.call("c", "connect")).shim_pid
            await ended(server)
            stream = [decode(data) for data in daemon.stream()]
            assert [] == judge(stream, is_whole=True)
            assert LIFE == len(stream)
            assert [] == daemon.inexcusable()
            assert socket_of(shim, "c").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@in_loop
async def test_a_signal_drains_too(tmp_path: Path, signum: int) -> None:
    """leaves-clean: unlinked first, and what a slow daemon has not had is said still.

    An operation in flight comes to its end before that, with its event.
    """
    async with Shim(tmp_path) as shim:
        await shim.close_events()
        async with FakeDaemon(f"{shim.address}.ttrpc", then=taken(0.3)) as daemon:
            with gated(shim, "exec") as gate:
                await shim.up("c", ["sleep", "1000"])
                await shim.call("c", "create")
                await shim.call("c", "start")
                for exec_id in ("e", "f"):
                    await shim.exec("c", exec_id, ["sleep", "1000"])
                start = asyncio.create_task(shim.call("c", "start", exec_id="e"))
                await gate.reached()
                server = (await shim.call("c", "connect")).shim_pid
                os.kill(server, signum)
                await until(lambda: not socket_of(shim, "c").exists())
                assert is_alive(server)
                gate.open()
                assert (await start).pid
                await ended(server)
            topics = [decode(data).topic for data in daemon.stream()]
            added = ["/tasks/exec-added"] * 2
            assert ["/tasks/create", "/tasks/start", *added] == topics[:4]
            assert ["/tasks/exec-started"] == topics[4:]
            assert [] == daemon.inexcusable()
        assert "never said" not in shim.log("c")


def test_the_drain_lasts_minutes() -> None:
    """What the tests here shorten is long enough for a daemon that is restarted."""
    assert 120 <= shim_daemon._LEAVING_DRAIN_S <= 600
    assert shim_daemon._ANSWER_DRAIN_S < 3  # which is what a daemon gives Shutdown


@pytest.mark.parametrize("how", ["shutdown", "SIGTERM", "SIGINT"])
@in_loop
async def test_what_is_unsaid_at_the_end_is_logged(tmp_path: Path, how: str) -> None:
    """leaves-clean: a stated time after the answer the rest is logged, one by one."""
    binary = altered(tmp_path, _LEAVING_DRAIN_S=0.5, _ANSWER_DRAIN_S=0.2)
    (tmp_path / "s").mkdir()
    async with Shim(tmp_path / "s", binary) as shim:
        await shim.close_events()
        async with FakeDaemon(f"{shim.address}.ttrpc", then=HANGING) as daemon:
            server = await live(shim)
            began = time.monotonic()
            if how == "shutdown":
                await shim.call("c", "shutdown")
            else:
                os.kill(server, getattr(signal, how))
            await ended(server)
            assert 0.5 < time.monotonic() - began < LIMIT_S / 2
            assert 1 == len(daemon.heard)
        log = shim.log("c")
        unsaid = re.findall(
            r'level=error msg="event was never said: /tasks/(\S+) ', log
        )
        life = ["exec-added", "exec-started", "exit", "delete"]
        assert ["create", "start", *life * EXECS, "exit", "delete"] == unsaid
        assert LIFE == len(re.findall(r"never said.* container=c ", log))


@in_loop
async def test_a_log_that_is_read_gets_every_unsaid_event(tmp_path: Path) -> None:
    """Of more than a pipe holds not a line is lost, if the daemon reads its log."""
    names = [f"e{number}-{'x' * 60}" for number in range(100)]
    binary = altered(tmp_path, _LEAVING_DRAIN_S=0.1, _ANSWER_DRAIN_S=0.1)
    (tmp_path / "s").mkdir()
    async with Shim(tmp_path / "s", binary) as shim:
        await shim.close_events()
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        for exec_id in names:  # deleted without a start: quick
            await shim.exec("c", exec_id, ["true"])
            await shim.call("c", "delete", exec_id=exec_id)
        for number in range(200):
            await shim.exec("c", f"f{number}-{'x' * 60}", ["true"])
        server = (await shim.call("c", "connect")).shim_pid
        os.kill(server, signal.SIGTERM)
        log = ""
        while is_alive(server):
            log += shim.log("c")
            await asyncio.sleep(0.01)
        log += shim.log("c")
        assert 1 << 16 < len(log)
        assert 2 + 2 * len(names) + 200 == log.count("never said")


@pytest.mark.parametrize("kind", [InvalidArgument, Unimplemented, ResourceExhausted])
@in_loop
async def test_a_refused_event_blocks_nobody(
    tmp_path: Path, kind: type[InvalidArgument | Unimplemented | ResourceExhausted]
) -> None:
    """An event that the daemon refuses for good is logged, and the others follow."""
    async with Shim(tmp_path) as shim:
        await shim.close_events()
        async with FakeDaemon(f"{shim.address}.ttrpc") as daemon:
            daemon.script = [taken(), refused(kind("no such thing"))]
            server = await live(shim)
            await shim.call("c", "shutdown")
            await ended(server)
            topics = [decode(data).topic for data in daemon.stream()]
            assert LIFE - 1 == len(topics)
            assert ["/tasks/create", "/tasks/exec-added"] == topics[:2]
        (given_up,) = re.findall("level=error.*", shim.log("c"))
        assert "event is given up: /tasks/start" in given_up
        assert "no such thing" in given_up
        assert " container=c " in given_up


@in_loop
async def test_a_daemon_at_the_same_path_gets_the_rest(tmp_path: Path) -> None:
    """fifo: a new daemon carries on where the old one has left off; nothing twice."""
    async with Shim(tmp_path) as shim:
        await shim.close_events()
        async with FakeDaemon(f"{shim.address}.ttrpc", then=HANGING) as old:
            old.script = [taken()] * 5
            server = await live(shim)
            await until(lambda: len(old.heard) == 6)
            old.stop()
            async with FakeDaemon(old.path) as new:
                await shim.call("c", "shutdown")
                await ended(server)
                # The one that was unanswered came again, and no other.
                assert old.heard[5].envelope == new.heard[0].envelope
                said = old.stream()[:5] + new.stream()
        assert [] == judge(map(decode, said), is_whole=True)
        assert LIFE == len(said)
