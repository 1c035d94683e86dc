"""Tests of `dunnage.shim.forked`: a talk that breaks off at each of its stages."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from tests.machine import pids_with

from dunnage.bootstrap import address, wire

from .conversation import (
    Conversation,
    children,
    end,
    environment,
    parent,
    servers,
    spare,
    working,
)
from .harness import Shim, ended, in_loop, is_alive, proc_status, spec, until

pytestmark = pytest.mark.slow

GROUP: Final = "io.containerd.runc.v2.group"
STEPS: Final[list[Callable[[Conversation], object]]] = [
    Conversation.connect,
    Conversation.ask_half,
    Conversation.ask_rest,
    Conversation.hear_ready,
    Conversation.go,
    Conversation.hear_answer,
    Conversation.confirm,
]
NAMES: Final = [step.__name__ for step in STEPS]


def walk(talk: Conversation, first: int, last: int) -> None:
    """Take the steps from one to before another."""
    for step in STEPS[first:last]:
        step(talk)


async def settled(directory: Path, *others: int) -> int:
    """Wait until the one server has only its reserve, and ``others``; return it."""
    (server,) = servers(directory)
    await until(lambda: spare(server) and working(server) <= set(others))
    return server


def socket_of(shim: Shim, group: str) -> Path:
    """Return the path of the socket of a group."""
    where = address.socket_address(shim.address, shim.namespace, group)
    return Path(address.unix_name(where))


async def a_server(shim: Shim, directory: Path) -> int:
    """Have a server that is in use by nobody; return it."""
    await shim.up("first")
    await shim.kill_shim("first")
    return await settled(directory)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("stage", range(len(STEPS)), ids=NAMES)
@in_loop
async def test_the_server_goes_at_any_moment(
    tmp_path: Path, directory: Path, stage: int, signum: signal.Signals
) -> None:
    """Who was accepted is served; who was not can hang up, and nothing comes of it."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        server = await a_server(shim, directory)
        shim.bundle("c", spec(["true"]))
        talk = Conversation.start(shim, directory, "c")
        with contextlib.closing(talk.socket):
            walk(talk, 0, stage)
            if stage:
                # It was accepted: the server has another fork in reserve.
                await until(lambda: spare(server) and working(server))
            os.kill(server, signum)
            if signum == signal.SIGKILL:
                await ended(server)
            if stage:
                walk(talk, stage, len(STEPS))
            elif signum == signal.SIGSTOP:
                walk(talk, 0, 3)
        if stage == 0:
            done = shim.start_action("c")
            assert (0, b"") == (done.returncode, done.stderr)
            answer = done.stdout
        else:
            answer = (shim.bundles / "c" / "address").read_bytes()
        await shim.connect("c", answer)
        pid = (await shim.call("c", "connect")).shim_pid
        end(server, signal.SIGCONT)
        # The next one, warm or cold; and whoever was left behind has given up.
        await shim.up("d")
        assert pid != (await shim.call("d", "connect")).shim_pid
        if signum == signal.SIGSTOP:
            assert [server] == servers(directory)
            mine = {pid, (await shim.call("d", "connect")).shim_pid}
            await until(lambda: spare(server) and working(server) <= mine)
        assert [pid] == pids_with(f"-id\0c\0-address\0{shim.address}")
        assert pid == (await shim.call("c", "connect")).shim_pid


@pytest.mark.parametrize("stage", range(1, len(STEPS)), ids=NAMES[1:])
@in_loop
async def test_the_client_of_a_start_goes(
    tmp_path: Path, directory: Path, stage: int
) -> None:
    """no-orphan-start: no shim is left, no socket; the next start makes one."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        server = await a_server(shim, directory)
        shim.bundle("c", spec(["true"]))
        with Conversation.start(shim, directory, "c") as talk:
            walk(talk, 1, stage)
        assert server == await settled(directory)
        assert [] == shim.leftovers("c")
        done = shim.start_action("c")
        assert (0, b"") == (done.returncode, done.stderr)
        await shim.connect("c", done.stdout)
        assert server == parent((await shim.call("c", "connect")).shim_pid)


@in_loop
async def test_the_client_of_a_start_is_slow(tmp_path: Path, directory: Path) -> None:
    """Who neither passes the address on nor goes is not waited for without end."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await a_server(shim, directory)
        shim.bundle("c", spec(["true"]))
        with Conversation.start(shim, directory, "c") as talk:
            walk(talk, 1, STEPS.index(Conversation.hear_answer))
            said = talk.hear_answer()
            await shim.connect("c", said.stdout)
            pid = (await shim.call("c", "connect")).shim_pid
        assert pid == (await shim.call("c", "connect")).shim_pid


@in_loop
async def test_who_joins_and_goes_leaves_the_shim(
    tmp_path: Path, directory: Path
) -> None:
    """The shim of a group is not theirs who would have been one more in it."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        config = spec(["true"], annotations={GROUP: "pod"})
        await shim.up("a", config=config)
        pid = (await shim.call("a", "connect")).shim_pid
        shim.bundle("b", config)
        with Conversation.start(shim, directory, "b") as talk:
            walk(talk, 1, STEPS.index(Conversation.hear_answer))
            said = talk.hear_answer()
        (server,) = servers(directory)
        await until(lambda: spare(server) and working(server) == {pid})
        await shim.connect("b", said.stdout)
        assert pid == (await shim.call("b", "connect")).shim_pid
        assert socket_of(shim, "pod").is_socket()


def halting(directory: Path) -> tuple[Path, Path]:
    """Make a runtime whose first ``delete`` halts, and name what it writes."""
    runtime, at = directory / "halting", directory / "at"
    runtime.write_text(
        '#!/bin/sh\ncase " $* " in *" delete "*)\n'
        f"if mkdir {directory}/once 2>/dev/null; then\n"
        f"echo $$ >{at}.new; mv {at}.new {at}; exec sleep 1000\nfi;; esac\n"
        'exec runc "$@"\n'
    )
    runtime.chmod(0o755)
    return runtime, at


async def dead(shim: Shim) -> int:
    """Have a container that runs, and whose shim is dead; return its init."""
    await shim.up("c", ["sleep", "1000"])
    pid = (await shim.call("c", "create")).pid
    await shim.call("c", "start")
    await shim.kill_shim("c")
    return int(pid)


@in_loop
async def test_the_client_of_a_delete_goes(tmp_path: Path, directory: Path) -> None:
    """no-orphan-start: it stops, its runtime dies, and the next one finishes."""
    runtime, at = halting(tmp_path)
    own = environment(directory)
    async with Shim(tmp_path, runtime=str(runtime), environment=own) as shim:
        init = await dead(shim)
        (server,) = servers(directory)
        with Conversation.delete(shim, directory, "c") as talk:
            walk(talk, 1, STEPS.index(Conversation.hear_answer))
            await until(at.exists)
            stand_in = int(at.read_text())
            assert parent(stand_in) in working(server)
        await ended(stand_in)
        await settled(directory, init)
        assert [] != shim.leftovers("c")
        done = shim.delete_action("c")
        assert (0, b"") == (done.returncode, done.stderr)
        assert (init, 137) == wire.parse_deleted(done.stdout)[:2]
        await ended(init)
        assert [] == shim.leftovers("c")


@in_loop
async def test_the_client_of_a_delete_goes_early(
    tmp_path: Path, directory: Path
) -> None:
    """one-shim: before it was told that somebody waits, nothing is touched."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        init = await dead(shim)
        for stage in range(1, STEPS.index(Conversation.go) + 1):
            with Conversation.delete(shim, directory, "c") as talk:
                walk(talk, 1, stage)
            await settled(directory, init)
            assert is_alive(init)


@in_loop
async def test_a_delete_that_waits_for_another_goes_with_its_client(
    tmp_path: Path, directory: Path
) -> None:
    """It waits in a call of the kernel, and hears of it all the same."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        init = await dead(shim)
        (server,) = servers(directory)
        bundle = shim.bundles / "c"
        held = os.open(bundle, os.O_RDONLY)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, held)
            fcntl.flock(held, fcntl.LOCK_EX)
            with Conversation.delete(shim, directory, "c") as talk:
                walk(talk, 1, STEPS.index(Conversation.hear_answer))
                await until(
                    lambda: any(
                        waits_with(fork, bundle) for fork in working(server) - {init}
                    )
                )
            await settled(directory, init)
        assert is_alive(init)


def waits_with(pid: int, path: Path) -> bool:
    """Whether a process sleeps that has ``path`` open."""
    held = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return str(path) in held and proc_status(pid)["State"][0] == "S"


@in_loop
async def test_without_a_fork_in_reserve(tmp_path: Path, directory: Path) -> None:
    """Whoever comes when that was killed has all that others have, the end too."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        server = await a_server(shim, directory)
        killed = spare(server)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: killed not in children(server))
        shim.bundle("c", spec(["true"]))
        with Conversation.start(shim, directory, "c") as talk:
            walk(talk, 1, len(STEPS))
        await shim.connect("c", (shim.bundles / "c" / "address").read_bytes())
        assert server == parent((await shim.call("c", "connect")).shim_pid)
