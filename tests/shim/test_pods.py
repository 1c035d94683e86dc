"""One shim for the containers of a pod: who makes it leave, who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.machine import pids_with

from dunnage.bootstrap import address
from dunnage.errors import DunnageError, Unavailable

from .harness import LIMIT_S, Shim, ended, in_loop, is_alive, spec, until
from .test_service import gated

pytestmark = pytest.mark.slow

SANDBOX = "io.kubernetes.cri.sandbox-id"
LIFE = [
    *["Create", "Start", "ExecAdded", "ExecStarted"],
    *["Exit e", "Exit", "Delete e", "Delete"],
]
BOTH = pytest.mark.parametrize("runtime", ["runc", "crun"])


def member(args: list[str], **changes: Any) -> dict[str, Any]:
    """Return the spec of a container of the pod."""
    return spec(args, annotations={SANDBOX: "pod"}, **changes)


def pod_socket(shim: Shim) -> Path:
    """Return the path of the pod's socket."""
    where = address.socket_address(shim.address, shim.namespace, "pod")
    return Path(address.unix_name(where))


async def live(shim: Shim, id_: str) -> None:
    """Take a container that has a shim through its life, to its delete."""
    await shim.call(id_, "create")
    await shim.call(id_, "start")
    await shim.call(id_, "wait")
    await shim.call(id_, "delete")


async def start(shim: Shim, id_: str) -> bytes:
    """Run the ``start`` of a bundle that is there; return its answer."""
    done = await asyncio.to_thread(shim.start_action, id_)
    assert (0, b"") == (done.returncode, done.stderr), done
    return done.stdout


# -- nobody leaves under somebody who comes


@in_loop
async def test_a_shutdown_spares_who_was_started(tmp_path: Path) -> None:
    """kept-for-those-who-come: between start and Create a container owns its shim."""
    async with Shim(tmp_path) as shim:
        await shim.up("a", config=member(["true"]))
        server = (await shim.call("a", "connect")).shim_pid
        await live(shim, "a")
        shim.bundle("b", member(["true"]))
        answer = await start(shim, "b")
        await shim.call("a", "shutdown")
        assert pod_socket(shim).is_socket()
        shim.bury("a")
        await shim.connect("b", answer)
        assert server == (await shim.call("b", "connect")).shim_pid
        await live(shim, "b")
        assert is_alive(server)
        await shim.call("b", "shutdown")
        assert not pod_socket(shim).exists()
        await ended(server)


@in_loop
async def test_a_shutdown_spares_who_started_it(tmp_path: Path) -> None:
    """kept-for-those-who-come: the first of a pod may be the last to be created."""
    async with Shim(tmp_path) as shim:
        await shim.up("a", config=member(["true"]))
        await shim.up("b", config=member(["true"]))
        server = (await shim.call("a", "connect")).shim_pid
        await live(shim, "b")
        await shim.call("b", "shutdown")
        await shim.reconnect("a")
        await live(shim, "a")
        await shim.call("a", "shutdown")
        await ended(server)


@in_loop
async def test_who_gives_up_is_not_waited_for(tmp_path: Path) -> None:
    """A Shutdown for one that was not created says that it will not be."""
    async with Shim(tmp_path) as shim:
        await shim.up("a", config=member(["true"]))
        await shim.up("b", config=member(["true"]))
        server = (await shim.call("a", "connect")).shim_pid
        with pytest.raises(DunnageError):  # as the daemon does after a failed Create
            await shim.call("b", "create", bundle="relative")
        await shim.call("b", "shutdown")
        await live(shim, "a")
        assert is_alive(server)
        await shim.call("a", "shutdown")
        await ended(server)


@in_loop
async def test_a_shim_that_leaves_is_not_joined(tmp_path: Path) -> None:
    """leaves-clean: one that still has something to say is no place for a new one."""
    async with Shim(tmp_path) as shim:
        await shim.up("a", config=member(["true"]))
        server = (await shim.call("a", "connect")).shim_pid
        shim.takes_events.clear()
        await live(shim, "a")
        leaving = asyncio.create_task(shim.call("a", "shutdown"))
        await until(lambda: not pod_socket(shim).exists())
        shim.bundle("b", member(["true"]))
        await shim.connect("b", await start(shim, "b"))
        assert is_alive(server)
        assert server != (await shim.call("b", "connect")).shim_pid
        # Nor does it take what comes by a connection that was open before.
        with pytest.raises(Unavailable, match="the shim is shutting down"):
            await shim.call("a", "create", id="c")
        shim.takes_events.set()
        await leaving
        await live(shim, "b")


@in_loop
async def test_a_start_that_meets_the_end_begins_anew(tmp_path: Path) -> None:
    """It waits in the backlog when the shim leaves, or dies: then it binds."""
    async with Shim(tmp_path) as shim:
        for number, ending in enumerate([signal.SIGTERM, signal.SIGKILL]):
            first, second = f"a{number}", f"b{number}"
            await shim.up(first, config=member(["true"]))
            server = (await shim.call(first, "connect")).shim_pid
            os.kill(server, signal.SIGSTOP)
            shim.bundle(second, member(["true"]))
            starting = asyncio.create_task(start(shim, second))
            await until(lambda: waits_for(pod_socket(shim)))
            os.kill(server, ending)
            with contextlib.suppress(ProcessLookupError):  # it was buried already
                os.kill(server, signal.SIGCONT)
            await shim.connect(second, await starting)
            assert server != (await shim.call(second, "connect")).shim_pid
            await live(shim, second)
            await shim.call(second, "shutdown")


def waits_for(path: Path) -> bool:
    """Whether somebody has connected to a socket and was not accepted."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    # 02 is a connection under way: in the backlog.
    states = [line.split()[5] for line in lines if line.endswith(f" {path}")]
    return "02" in states


@in_loop
async def test_starts_and_shutdowns_race(tmp_path: Path) -> None:
    """Whoever was given an address finds a shim there that takes its container."""
    async with Shim(tmp_path) as shim:
        await shim.up("c0", config=member(["true"]))
        for number in range(1, 26):
            old, new = f"c{number - 1}", f"c{number}"
            await shim.call(old, "create")
            shim.bundle(new, member(["true"]))
            starting = asyncio.create_task(start(shim, new))
            await shim.call(old, "delete")
            # From before the start's interpreter is up until after its end.
            await asyncio.wait([starting], timeout=0.02 * (number % 12))
            await shim.call(old, "shutdown")
            await shim.connect(new, await starting)
            shim.bury(old)
        last = next(shim.bundles.iterdir()).name
        await live(shim, last)
        await shim.call(last, "shutdown")
        await until(lambda: not pids_with(shim.namespace))
        assert not pod_socket(shim).exists()


@pytest.mark.parametrize("stale", [False, True])
@in_loop
async def test_many_starts_race(tmp_path: Path, stale: bool) -> None:
    """One of them makes the shim; every one of them has a place in it."""
    async with Shim(tmp_path) as shim:
        names = [f"c{n}" for n in range(6)]
        for name in names:
            shim.bundle(name, member(["true"]))
        if stale:
            pod_socket(shim).parent.mkdir(parents=True, exist_ok=True)
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(pod_socket(shim)))
        answers = await asyncio.gather(*(start(shim, name) for name in names))
        await until(lambda: len(pids_with(shim.namespace)) == 1)
        (server,) = pids_with(shim.namespace)
        for name, answer in zip(names, answers, strict=True):
            await shim.connect(name, answer)
            await live(shim, name)
            assert is_alive(server)
            await shim.call(name, "shutdown")
        await ended(server)


# -- nobody waits for another


@contextlib.asynccontextmanager
async def stuck(shim: Shim, command: str) -> AsyncIterator[None]:
    """Have the runtime hang in ``command`` for the container ``slow`` meanwhile."""
    plain = shim.runtime
    with gated(shim, command) as gate:
        await shim.up("slow", config=member(["sleep", "1000"]))
        steps = {
            "create": [],
            "start": ["create"],
            "exec": ["create", "start"],
            "kill": ["create", "start"],
            "ps": ["create", "start"],
            "pause": ["create", "start"],
            "resume": ["create", "start", "pause"],
            "delete": ["create"],
        }
        for step in steps[command]:
            await shim.call("slow", step)
        fields: dict[str, Any] = {}
        if command == "exec":
            await shim.exec("slow", "e", ["true"])
            fields = {"exec_id": "e"}
        name = {"exec": "start", "ps": "pids"}.get(command, command)
        if command == "kill":
            fields = {"signal": 9}
        call = asyncio.create_task(shim.call("slow", name, **fields))
        await gate.reached()
        shim.runtime = plain
        try:
            yield
            assert not call.done()
        finally:
            gate.open()
            await call
            if command == "pause":
                await shim.call("slow", "resume")


@BOTH
@pytest.mark.parametrize(
    "command", ["create", "start", "exec", "kill", "delete", "ps", "pause", "resume"]
)
@in_loop
async def test_a_runtime_that_hangs_holds_up_nobody_else(
    tmp_path: Path, runtime: str, command: str
) -> None:
    """Whatever it hangs in for one container, another has its whole life meanwhile."""
    async with Shim(tmp_path, runtime=runtime) as shim, stuck(shim, command):
        began = time.monotonic()
        await shim.up("c", config=member(["sleep", "1000"]))
        await shim.call("c", "create")
        await shim.call("c", "start")
        assert 2 == (await shim.call("c", "state")).status  # running
        await shim.exec("c", "e", ["sh", "-c", "exit 3"])
        await shim.call("c", "start", exec_id="e")
        assert 3 == (await shim.call("c", "wait", exec_id="e")).exit_status
        assert (await shim.call("c", "pids")).processes
        await shim.call("c", "kill", signal=9)
        assert 137 == (await shim.call("c", "wait")).exit_status
        await shim.wait_for_event("TaskExit", container_id="c", id="c")
        await shim.call("c", "delete")
        await shim.call("c", "shutdown")  # slow has an owner still
        assert time.monotonic() - began < LIMIT_S / 2
        await shim.wait_for_event("TaskDelete", container_id="c", id="")
        assert LIFE == shim.kinds("c")


# -- what is said about whom


@in_loop
async def test_each_record_names_its_container(tmp_path: Path) -> None:
    """Two that fail differently at once: the pod's one log tells them apart."""
    async with Shim(tmp_path) as shim:
        for id_ in ("a", "b"):
            linux = spec([])["linux"]
            namespaces = [n for n in linux["namespaces"] if n["type"] != "pid"]
            linux |= {"namespaces": namespaces}
            await shim.up(id_, config=member(["sleep", "1000"], linux=linux))
        # a cannot have its exit on disk; b's runtime cannot kill those init has left.
        plain = shim.runtime
        program = tmp_path / "no-kill-all"
        program.write_text(
            '#!/bin/sh\ncase "$*" in *--all*) echo sorry >&2; exit 3;; esac\n'
            f'exec {plain} "$@"\n'
        )
        program.chmod(0o755)
        await shim.call("a", "create")
        shim.runtime = str(program)
        await shim.call("b", "create")
        for id_ in ("a", "b"):
            await shim.call(id_, "start")
        os.rename(shim.bundles / "a", shim.bundles / "gone")
        calls = [shim.call(id_, "kill", signal=9) for id_ in ("a", "b")]
        await asyncio.gather(*calls)
        for id_ in ("a", "b"):
            await shim.wait_for_event("TaskExit", container_id=id_)
        seen = ""
        async with asyncio.timeout(LIMIT_S):
            while not ("exit is not on disk" in seen and "sorry" in seen):
                seen += shim.log("a")  # the first of the pod has the log of all
                await asyncio.sleep(0.01)
        os.rename(shim.bundles / "gone", shim.bundles / "a")
        records = [line for line in seen.splitlines() if "level=info" not in line]
        for line in records:
            named = re.search(r" container=(\S+)", line)
            assert named, line
            assert ("on disk" in line) == (named[1] == "a"), line
        assert "" == shim.log("b")


@in_loop
async def test_the_dump_is_of_every_container(tmp_path: Path) -> None:
    """SIGUSR1: each process of each with its state, in records of its container."""
    async with Shim(tmp_path) as shim:
        for id_, words in {"a": "sleep 1000", "b": "false", "c": "true"}.items():
            await shim.up(id_, config=member(words.split()))
            await shim.call(id_, "create")
        for id_ in ("a", "b"):
            await shim.call(id_, "start")
        await shim.call("b", "wait")
        await shim.exec("a", "e", ["sleep", "1000"])
        await shim.call("a", "start", exec_id="e")
        await shim.call("a", "pause")
        pids = {id_: (await shim.call(id_, "state")).pid for id_ in "abc"}
        e = (await shim.call("a", "state", exec_id="e")).pid
        os.kill((await shim.call("a", "connect")).shim_pid, signal.SIGUSR1)
        seen = ""
        async with asyncio.timeout(LIMIT_S):
            while "dump: end" not in seen:
                seen += shim.log("a")
                await asyncio.sleep(0.01)
        told = re.findall(r'msg="dump: (\S+(?: e)? is .*?)" container=(\S+)', seen)
        assert [
            (f"init is paused, pid {pids['a']}", "a"),
            (f"exec e is paused, pid {e}", "a"),
            (f"init is stopped, pid {pids['b']}, exit status 1", "b"),
            (f"init is created, pid {pids['c']}", "c"),
        ] == told
        await shim.call("a", "resume")


# -- many


@BOTH
@in_loop
async def test_a_large_pod(tmp_path: Path, runtime: str) -> None:
    """Thirty containers of one shim: each answers, each has its order, none is left."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        names = [f"c{n}" for n in range(30)]
        for name in names:
            await shim.up(name, config=member(["sleep", "1000"]))
            await shim.call(name, "create")
        (server,) = {(await shim.call(name, "connect")).shim_pid for name in names}
        await asyncio.gather(*(shim.call(name, "start") for name in names))
        for name in names:
            state = await shim.call(name, "state")
            assert (name, 2) == (state.id, state.status)
            await shim.exec(name, "e", ["sh", "-c", "exit 3"])
        await asyncio.gather(*(shim.call(n, "start", exec_id="e") for n in names))
        for name in names:
            assert 3 == (await shim.call(name, "wait", exec_id="e")).exit_status
            pids = [p.pid for p in (await shim.call(name, "pids")).processes]
            assert [(await shim.call(name, "connect")).task_pid] == pids
        await asyncio.gather(*(shim.call(n, "kill", signal=9) for n in names))
        for name in names:
            assert 137 == (await shim.call(name, "wait")).exit_status
        await asyncio.gather(*(shim.call(name, "delete") for name in names))
        await shim.call(names[0], "shutdown")
        await ended(server)
        await shim.wait_events(30 * 8)
        for name in names:
            assert LIFE == shim.kinds(name)
            shim.bury(name)
        assert [] == shim.strays()
