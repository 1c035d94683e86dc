"""Tests of `dunnage.shim.forkserver`, `forked` and `thin`: one warm parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.machine import end_forkservers, forkservers
from tests.shim.harness import Shim, in_loop, spec, until

from dunnage.bootstrap import warm
from dunnage.host import native


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Return where this test's servers are; they end with it."""
    path = tmp_path / "f"
    yield path
    for pid in forkservers(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    end_forkservers(path)


def environment(directory: Path) -> dict[str, str]:
    """Return what has a shim started by a server of this test."""
    return {warm.DIRECTORY_VARIABLE: str(directory)}


def servers(directory: Path) -> list[int]:
    """Return the servers, without the forks that they keep ready."""
    pids = forkservers(directory)
    return [pid for pid in pids if parent(pid) not in pids]


def parent(pid: int) -> int:
    """Return the parent of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"PPid:\t(\d+)", status)[0])


async def shim_pid(shim: Shim, id_: str) -> int:
    """Return the pid of a container's shim."""
    return int((await shim.call(id_, "connect")).shim_pid)


@in_loop
async def test_a_shim_is_a_child_of_the_server(tmp_path: Path, directory: Path) -> None:
    """The second start meets the server that the first has made."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a")
        (server,) = servers(directory)
        await shim.up("b")
        assert [server] == servers(directory)
        for name in ("a", "b"):
            assert server == parent(await shim_pid(shim, name))
        assert b"/\0" not in Path(f"/proc/{server}/environ").read_bytes()
        assert "/" == os.readlink(f"/proc/{server}/cwd")
        assert server == os.getsid(server)
        assert 1 == len(list(Path(f"/proc/{server}/task").iterdir()))


@in_loop
async def test_off_means_off(tmp_path: Path, directory: Path) -> None:
    """Who wants no server has none."""
    async with Shim(tmp_path, environment={warm.DIRECTORY_VARIABLE: "off"}) as shim:
        await shim.up("a")
    assert not directory.exists()


@in_loop
async def test_a_shim_looks_like_one(tmp_path: Path, directory: Path) -> None:
    """Name, command line and environment are those of its own start."""
    mine = environment(directory) | {"MINE": "1"}
    async with Shim(tmp_path, environment=mine) as shim:
        await shim.up("a")
        proc = Path(f"/proc/{await shim_pid(shim, 'a')}")
        said = ["-namespace", shim.namespace, "-id", "a", "-address", shim.address]
        expected = [str(shim.binary), *said]
        words = (proc / "cmdline").read_bytes().decode().split("\0")
        assert expected == words[-len(expected) - 1 : -1]
        assert "containerd-shim" == (proc / "comm").read_text().strip()
        assert b"MINE=1" in (proc / "environ").read_bytes().split(b"\0")


@in_loop
async def test_nothing_of_one_caller_is_seen_by_another(
    tmp_path: Path, directory: Path
) -> None:
    """Environment, directory, umask, fds, signals: all are one's own."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        secret = os.open(tmp_path, os.O_RDONLY)
        shim.environment["SECRET"] = "1"
        shim.start_prefix = ["sh", "-c", 'trap "" HUP; umask 5; exec "$@"', "-"]
        await shim.up("a")
        del shim.environment["SECRET"]
        shim.start_prefix = []
        await shim.up("b")
        os.close(secret)
        assert 1 == len(servers(directory))
        proc = Path(f"/proc/{await shim_pid(shim, 'b')}")
        assert b"SECRET" not in (proc / "environ").read_bytes()
        assert str(shim.bundles / "b") == os.readlink(proc / "cwd")
        status = (proc / "status").read_text()
        own = Path("/proc/self/status").read_text()
        assert re.findall("Umask.*", own) == re.findall("Umask.*", status)
        (ignored,) = re.findall(r"SigIgn:\t(\w+)", status)
        assert not int(ignored, 16) & 1 << signal.SIGHUP - 1
        held = [os.readlink(fd) for fd in (proc / "fd").iterdir()]
        assert str(tmp_path) not in held
        assert not any(str(directory) in name for name in held)


@pytest.mark.parametrize(
    "prefix",
    [
        ["unshare", "--uts"],
        ["setpriv", "--bounding-set", "-sys_boot"],
        ["env", "LD_PRELOAD="],
        ["prlimit", "--core=1"],
    ],
)
@in_loop
async def test_who_differs_has_a_server_of_its_own(
    tmp_path: Path, directory: Path, prefix: list[str]
) -> None:
    """Each for itself; the shim is what its caller would have made of it."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a")
        shim.start_prefix = prefix
        await shim.up("b")
        first, second = [parent(await shim_pid(shim, name)) for name in "ab"]
        assert {first, second} == set(servers(directory))
        assert first != second


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
@in_loop
async def test_a_server_that_is_gone_or_stopped(
    tmp_path: Path, directory: Path, signum: int
) -> None:
    """Its shims live on, and the next start is slower at the most."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a")
        (server,) = servers(directory)
        os.kill(server, signum)
        await until(
            lambda: signum == signal.SIGSTOP or server not in servers(directory)
        )
        await shim.up("b")
        assert await shim_pid(shim, "a") != await shim_pid(shim, "b")
        if signum == signal.SIGSTOP:
            assert server != parent(await shim_pid(shim, "b"))
            os.kill(server, signal.SIGCONT)
            # What had waited for it finds its caller gone, and does nothing.
            await shim.up("c")
            assert server == parent(await shim_pid(shim, "c"))
            pids = [await shim_pid(shim, name) for name in "abc"]
            assert 3 == len(set(pids))


@in_loop
async def test_who_connects_and_says_nothing_blocks_nobody(
    tmp_path: Path, directory: Path
) -> None:
    """Nor does who says nonsense."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a")
        (path,) = directory.glob(f"*/{warm.SOCKET}")
        with contextlib.ExitStack() as strangers:
            for said in (b"", b"", b"GET / HTTP/1.1\r\n\r\n", b"DNG1\xff\xff\xff\xff"):
                stranger = strangers.enter_context(socket.socket(socket.AF_UNIX))
                stranger.connect(str(path))
                stranger.send(said)
            await shim.up("b")
            assert servers(directory) == [parent(await shim_pid(shim, "b"))]


@in_loop
async def test_starts_that_race_make_one_server(
    tmp_path: Path, directory: Path
) -> None:
    """All of them succeed."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        names = [f"c{n}" for n in range(20)]
        for name in names:
            shim.bundle(name, spec(["true"]))
        starts = [asyncio.to_thread(shim.start_action, name) for name in names]
        for name, done in zip(names, await asyncio.gather(*starts), strict=True):
            assert (0, b"") == (done.returncode, done.stderr)
            await shim.connect(name, done.stdout)
            await shim_pid(shim, name)
        assert 1 == len(servers(directory))


@pytest.mark.parametrize("mode", [0o755, 0o770])
@in_loop
async def test_a_directory_that_others_may_write_is_not_used(
    tmp_path: Path, directory: Path, mode: int
) -> None:
    """Who can write there could be our server."""
    directory.mkdir(mode=mode)
    directory.chmod(mode)
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a")
        assert [] == servers(directory)


def own_kib(pid: int) -> int:
    """Return how much memory a process has written to, and is its alone."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"Private_Dirty: +(\d+)", rollup)))


@pytest.mark.skipif(native.library is None, reason="was not built")
@in_loop
async def test_a_shim_at_rest_has_given_memory_back(
    tmp_path: Path, directory: Path
) -> None:
    """It has less to itself than in the midst of work, looks the same, and serves."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a", args=["sleep", "100"])
        await shim.call("a", "create")
        await shim.call("a", "start")
        pid = await shim_pid(shim, "a")
        busy = own_kib(pid)
        await until(lambda: own_kib(pid) < busy - 256)
        for each in (pid, *servers(directory)):
            assert Path(f"/proc/{each}/cmdline").read_bytes()
            assert Path(f"/proc/{each}/environ").read_bytes()
        await shim.call("a", "kill", signal=int(signal.SIGKILL))
        await shim.call("a", "wait")
        await shim.call("a", "delete")
        # What it dropped it makes again: another life, in the same shim.
        shim.member("b", "a", spec(["true"]))
        for name in ("create", "start", "wait", "delete"):
            await shim.call("b", name)
