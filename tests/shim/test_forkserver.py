"""Tests of `dunnage.shim.forkserver`, `forked` and `thin`: one warm parent."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from tests.machine import cgroups_named, pids_with

from dunnage import __version__
from dunnage.bootstrap import warm
from dunnage.host import native
from dunnage.host.cgroups import attaching

from .conversation import (
    Conversation,
    attacher,
    end,
    environment,
    parent,
    place,
    servers,
    spare,
    working,
)
from .harness import Shim, ended, in_loop, is_alive, proc_status, spec, until


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


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@in_loop
async def test_runtimes_run_from_the_servers_copy(
    runtime: str, tmp_path: Path, directory: Path
) -> None:
    """They would copy themselves at every call; a hook looks at who calls it."""
    told = tmp_path / "told"
    hook = f"readlink /proc/$PPID/exe >{told}"
    hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]}
    given = environment(directory)
    async with Shim(tmp_path, environment=given, runtime=runtime) as shim:
        await shim.up("a", config=spec(["true"], hooks=hooks))
        await shim.call("a", "create")
        assert f"/memfd:{runtime} (deleted)\n" == told.read_text()


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
        (server,) = servers(directory)
        pattern = f"containerd-shim.* -namespace {shim.namespace} -id a "
        found = subprocess.check_output(["pgrep", "-f", pattern])
        assert [proc.name] == found.decode().split()
        by_name = subprocess.check_output(["pgrep", "-x", "containerd-shim"])
        assert proc.name in by_name.decode().split()
        assert str(server) not in by_name.decode().split()
        shown = subprocess.check_output(["ps", "-ww", "-o", "args=", "-p", proc.name])
        assert shown.decode().strip().endswith(" ".join(expected))


RACING: Final = 200
LISTENS: Final = "00010000"
"""In /proc/net/unix; who is connected shows the same path."""
_Look: TypeAlias = Callable[[Path], object]


def umask(proc: Path) -> object:
    """Return a process's umask."""
    return re.findall("Umask.*", (proc / "status").read_text())


def blocked(proc: Path) -> object:
    """Return the signals that a process blocks."""
    return re.findall("SigBlk.*", (proc / "status").read_text())


def ignored(proc: Path) -> object:
    """Return the signals that a process ignores."""
    return re.findall("SigIgn.*", (proc / "status").read_text())


def variables(proc: Path) -> object:
    """Return a process's environment."""
    return sorted((proc / "environ").read_bytes().split(b"\0"))


def paths(proc: Path) -> object:
    """Return what a process has open that has a name, but for its bundle's log."""
    held = [os.readlink(fd) for fd in (proc / "fd").iterdir()]
    return sorted(name for name in held if name[0] == "/" and not name.endswith("/log"))


def session(proc: Path) -> object:
    """Return whether a process is in our session."""
    return os.getsid(int(proc.name)) == os.getsid(0)


OWN: Final = ["sh", "-c", 'umask 5 && exec 7</etc && exec "$@"', "-"]
ODD: Final[dict[str, tuple[list[str], _Look]]] = {
    "umask": (OWN, umask),
    "fds": (OWN, paths),
    "session": (["setsid", "--wait"], session),
    "environment": (["env", "SECRET=1"], variables),
    "blocked": (["env", "--block-signal=USR2", "--block-signal=HUP"], blocked),
    "ignored": (["env", "--ignore-signal=HUP", "--ignore-signal=TERM"], ignored),
    "restored": (["env", "--default-signal"], ignored),
}


@pytest.mark.parametrize(("prefix", "look"), ODD.values(), ids=ODD)
@in_loop
async def test_nothing_of_one_caller_is_seen_by_another(
    tmp_path: Path, directory: Path, prefix: list[str], look: _Look
) -> None:
    """nothing-of-another: whoever had the server made, the next is as if alone."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a")
        plain = look(Path(f"/proc/{await shim_pid(shim, 'a')}"))
        (first,) = servers(directory)
        end(first)
        await ended(first)
        shim.start_prefix = prefix
        await shim.up("b")
        shim.start_prefix = []
        await shim.up("c")
        (server,) = servers(directory)
        pids = [await shim_pid(shim, name) for name in "bc"]
        assert [server, server] == [parent(pid) for pid in pids]
        assert plain == look(Path(f"/proc/{pids[1]}"))


@in_loop
async def test_each_is_where_its_caller_is(tmp_path: Path, directory: Path) -> None:
    """The directory is one's own bundle, not the one of who had the server made."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        for name in "ab":
            await shim.up(name)
            where = os.readlink(f"/proc/{await shim_pid(shim, name)}/cwd")
            assert str(shim.bundles / name) == where
        assert 1 == len(servers(directory))


@in_loop
async def test_a_shim_holds_nothing_of_the_server(
    tmp_path: Path, directory: Path
) -> None:
    """Neither the socket where it listens, nor its lock."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a")
        await shim.up("b")
        (server,) = servers(directory)
        (path,) = directory.glob(f"*/{warm.SOCKET}")
        (inode,) = {
            words[6]
            for line in Path("/proc/net/unix").read_text().splitlines()
            if (words := line.split())[-1] == str(path)
        }
        pids = [await shim_pid(shim, name) for name in "ab"]
        links = {
            pid: [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
            for pid in (server, *pids)
        }
        assert f"socket:[{inode}]" in links[server]
        assert str(path.parent) in links[server]
        for pid in pids:
            assert f"socket:[{inode}]" not in links[pid]
            assert not [name for name in links[pid] if str(directory) in name]
        end(server)
        await ended(server)
        lock = os.open(path.parent, os.O_RDONLY)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as caller:
            await until(lambda: is_free(lock))  # its reserve goes with it
            os.close(lock)
            with pytest.raises(ConnectionRefusedError):
                caller.connect(str(path))
        assert all(is_alive(pid) for pid in pids)


def is_free(lock: int) -> bool:
    """Whether nobody holds a lock; then we do."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_STRANGER: Final = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.settimeout(20)
server.connect("/proc/self/fd/" + sys.argv[1] + "/s")
fds = [os.open("/", os.O_PATH)]
try:
    socket.send_fds(server, [bytes.fromhex(sys.argv[2])], fds)
    sys.stdout.write(server.recv(1).decode())
except ConnectionError:
    pass
"""


@pytest.mark.parametrize("uid", [0, 65534])
@in_loop
async def test_another_uid_is_refused(
    tmp_path: Path, directory: Path, uid: int
) -> None:
    """By the server itself, should the directories ever let one in."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a")
        (path,) = directory.glob(f"*/{warm.SOCKET}")
        for each in (path, path.parent):
            each.chmod(0o777)
        # There, without a way through what is above it.
        inside = os.open(path.parent, os.O_PATH)
        shim.bundle("b", spec(["true"]))
        talk = Conversation.start(shim, directory, "b")
        talk.socket.close()
        argv = ["setpriv", f"--reuid={uid}", "/usr/bin/python3", "-I", "-c", _STRANGER]
        done = subprocess.run(
            [*argv, str(inside), talk.request.hex()],
            pass_fds=[inside],
            cwd="/",
            capture_output=True,
            check=False,
        )
        os.close(inside)
        assert (0, b"") == (done.returncode, done.stderr)
        assert (b"R" if uid == 0 else b"") == done.stdout


@pytest.fixture
def group() -> Iterator[Path]:
    """Return a cgroup of this test's own; it ends with the processes in it."""
    root = next(
        (each for each in cgroups_named("/") if (each / "tasks").exists()),
        Path("/sys/fs/cgroup"),
    )
    for each in cgroups_named("/"):
        if each.name == "freezer":
            root = each
    path = root / f"dunnage-test-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    asyncio.run(until(lambda: not (path / "cgroup.procs").read_text()))
    path.rmdir()


@in_loop
async def test_another_cgroup_has_a_server_of_its_own(
    tmp_path: Path, group: Path, directory: Path
) -> None:
    """What is started in a cgroup is in it, and what is not is not."""
    procs = group / "cgroup.procs"
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a")
        shim.start_prefix = ["sh", "-c", f'echo $$ >{procs}; exec "$@"', "-"]
        await shim.up("b")
        shim.start_prefix = []
        await shim.up("c")
        a, b, c = [await shim_pid(shim, name) for name in "abc"]
        assert {parent(a), parent(b)} == set(servers(directory))
        assert parent(a) == parent(c) != parent(b)
        inside = set(map(int, procs.read_text().split()))
        assert {b, parent(b)} <= inside
        assert not {a, c, parent(a)} & inside


@in_loop
async def test_another_version_has_a_server_of_its_own(
    tmp_path: Path, directory: Path
) -> None:
    """As soon as the launcher's file is another, also of the same name."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (folder / "python3").chmod(0o755)
        installed, shim.binary = shim.binary, folder / shim.binary.name
        found = []
        for name in "ab":
            shutil.copy2(installed, folder / "new")
            (folder / "new").rename(shim.binary)
            await shim.up(name)
            found.append(parent(await shim_pid(shim, name)))
        assert set(found) == set(servers(directory))
        assert 2 == len(set(found))


def link(name: str) -> _Look:
    """Return what looks where a link in /proc leads."""
    return lambda proc: os.readlink(proc / name)


def line(name: str, file: str = "status") -> _Look:
    """Return what looks at a line in /proc."""
    return lambda proc: re.findall(f"{name}.*", (proc / file).read_text())


def holds(name: str, text: str) -> _Look:
    """Return what looks whether a file in /proc has a text in it."""
    return lambda proc: text in (proc / name).read_text()


def niceness(proc: Path) -> object:
    """Return how nice a process is."""
    return os.getpriority(os.PRIO_PROCESS, int(proc.name))


PRELOADED: Final = "libBrokenLocale.so.1"
"""One that every glibc has, and that nobody needs."""
DIFFERING: Final[dict[str, tuple[list[str], _Look]]] = {
    "uts": (["unshare", "--uts"], link("ns/uts")),
    "ipc": (["unshare", "--ipc"], link("ns/ipc")),
    "net": (["unshare", "--net"], link("ns/net")),
    "mount": (["unshare", "--mount"], link("ns/mnt")),
    "capabilities": (["setpriv", "--bounding-set", "-sys_boot"], line("CapBnd")),
    "privileges": (["setpriv", "--no-new-privs"], line("NoNewPrivs")),
    "groups": (["setpriv", "--groups", "0,5"], line("Groups")),
    "preload": (["env", f"LD_PRELOAD={PRELOADED}"], holds("maps", PRELOADED)),
    "malloc": (["env", "MALLOC_ARENA_MAX=1"], holds("environ", "ARENA_MAX=1\0")),
    "limits": (["prlimit", "--core=1"], line("Max core", "limits")),
    "nice": (["nice", "-n", "3"], niceness),
    "affinity": (["taskset", "1"], line("Cpus_allowed:")),
}


async def three(
    shim: Shim, directory: Path, prefix: list[str]
) -> tuple[list[Path], list[Path]]:
    """Start shims, the second with ``prefix``; return them, and the two servers."""
    for name in "abc":
        shim.start_prefix = prefix if name == "b" else []
        await shim.up(name)
    pids = [await shim_pid(shim, name) for name in "abc"]
    first, second, third = map(parent, pids)
    assert {first, second} == set(servers(directory))
    assert first == third != second
    return [Path(f"/proc/{n}") for n in pids], [
        Path(f"/proc/{n}") for n in (first, second)
    ]


@pytest.mark.parametrize(("prefix", "look"), DIFFERING.values(), ids=DIFFERING)
@in_loop
async def test_who_differs_has_a_server_of_its_own(
    tmp_path: Path, directory: Path, prefix: list[str], look: _Look
) -> None:
    """The shim is what its caller would have made of it, and the next one's is not."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        shims, (plain, odd) = await three(shim, directory, prefix)
        assert look(plain) != look(odd)
        assert [look(plain), look(odd), look(plain)] == [look(each) for each in shims]


@in_loop
async def test_another_oom_score_has_a_server_of_its_own(
    tmp_path: Path, directory: Path
) -> None:
    """A shim's own is its daemon's and one more, whatever the launcher's was."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        prefix = ["choom", "-n", "50", "--"]
        shims, both = await three(shim, directory, prefix)
        plain, odd = [int((each / "oom_score_adj").read_text()) for each in both]
        assert 50 == odd != plain
        daemons = int(Path("/proc/self/oom_score_adj").read_text())
        for each in shims:
            assert min(daemons + 1, 1000) == int((each / "oom_score_adj").read_text())


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


@pytest.mark.slow
@in_loop
async def test_starts_that_race_make_one_server(
    tmp_path: Path, directory: Path
) -> None:
    """one-server: of two hundred callers each has a shim of its own."""
    async with contextlib.AsyncExitStack() as stack:
        own = environment(directory)
        shim = await stack.enter_async_context(Shim(tmp_path, environment=own))
        # All in one bundle: a shim needs no more of it than config.json.
        bundle = shim.bundle("c", spec(["true"]))
        names = [f"c{n}" for n in range(RACING)]
        ways = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        context: dict[str, Any] = {"cwd": bundle, "env": shim.env} | ways
        callers = [
            stack.enter_context(subprocess.Popen(shim.flags(name, "start"), **context))
            for name in names
        ]
        # A caller reads to the end of its stdin before it does anything.
        for name, caller in zip(names, callers, strict=True):
            assert caller.stdin
            caller.stdin.write(shim.start_stdin(name))
            caller.stdin.flush()
        for caller in callers:
            assert caller.stdin
            caller.stdin.close()
            caller.stdin = None  # for communicate
        shims = set()
        for name, caller in zip(names, callers, strict=True):
            answer, said = caller.communicate()
            assert (0, b"") == (caller.wait(), said)
            await shim.connect(name, answer)
            shims.add(await shim_pid(shim, name))
        (server,) = servers(directory)
        assert RACING == len(shims)
        classes = {os.sched_getscheduler(pid) for pid in shims}
        assert {os.SCHED_OTHER} == classes, "what a fork does ahead it does idly"
        assert shims == set(pids_with(shim.namespace))
        assert working(server) <= shims
        for pid in shims:
            end(pid, signal.SIGTERM)
        await until(lambda: not pids_with(shim.namespace))
        await until(lambda: not working(server))


@pytest.mark.slow
@in_loop
async def test_a_server_killed_over_and_over(tmp_path: Path, directory: Path) -> None:
    """At whatever moment: whoever comes has the shim that was asked for, and one."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        names = [f"c{n}" for n in range(24)]
        moments = random.Random(5)
        for name in names:
            shim.bundle(name, spec(["true"]))
        waiting = iter(names)

        async def some() -> None:
            for name in waiting:
                done = await asyncio.to_thread(shim.start_action, name)
                assert (0, b"") == (done.returncode, done.stderr)
                await shim.connect(name, done.stdout)

        async def killer() -> None:
            while True:
                await asyncio.sleep(moments.uniform(0, 0.15))
                for pid in servers(directory):
                    end(pid)

        killing = asyncio.create_task(killer())
        await asyncio.gather(*(some() for _ in range(4)))
        killing.cancel()
        shims = [await shim_pid(shim, name) for name in names]
        assert sorted(shims) == sorted(pids_with(shim.namespace))
        await shim.up("next")
        await shim_pid(shim, "next")


def held_by(pid: int) -> tuple[list[str], int]:
    """Return what a process has open, without numbers, and its memory in kB."""
    proc = Path(f"/proc/{pid}")
    links = [re.sub(r"\d+", "N", os.readlink(fd)) for fd in (proc / "fd").iterdir()]
    rollup = (proc / "smaps_rollup").read_text()
    return sorted(links), int(re.findall(r"\nAnonymous: +(\d+) kB", rollup)[0])


@pytest.mark.slow
@in_loop
async def test_a_server_does_not_grow(tmp_path: Path, directory: Path) -> None:
    """no-growth: hundreds of starts, good and bad, leave it as it was."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:

        async def one(name: str, number: int) -> None:
            kind = number % 5
            shim.bundle(name, "no JSON" if kind == 1 else spec(["true"]))
            if kind == 2:  # somebody leaves in the midst of a request
                with Conversation.start(shim, directory, name) as talk:
                    talk.ask_half()
            done = await asyncio.to_thread(shim.start_action, name)
            if kind == 1:
                assert 1 == done.returncode
                shim.close_log(name)
                shutil.rmtree(shim.bundles / name)
                return
            await shim.connect(name, done.stdout)
            await shim.call(name, "shutdown")
            shim.bury(name)

        async def lives(prefix: str, count: int) -> None:
            numbers = iter(range(count))

            async def some() -> None:
                for number in numbers:
                    await one(f"{prefix}{number}", number)

            await asyncio.gather(*(some() for _ in range(4)))
            await until(lambda: not pids_with(shim.namespace))
            await until(lambda: not working(server) and spare(server))

        await shim.up("first")
        (server,) = servers(directory)
        await shim.call("first", "shutdown")
        await lives("w", 40)
        fds, memory_kb = held_by(server)
        await lives("c", 200)
        assert [server] == servers(directory)
        fds_after, memory_after_kb = held_by(server)
        assert fds == fds_after
        assert memory_after_kb - memory_kb < 1024


@pytest.fixture
def hasty(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Return a server that leaves as soon as nobody needs it, started by hand."""
    directory.mkdir(mode=0o700)
    binary = Path(sys.executable).parent / "containerd-shim-dunnage-v2"
    code = warm.code(__version__, str(binary))
    own = place(directory, code, [])
    own.mkdir(mode=0o700)
    lock = os.open(own, os.O_RDONLY)
    assert is_free(lock)
    words = ["--directory", str(own), "--code", code, "--lock-fd", str(lock)]
    module = ["-I", "-m", "dunnage.shim.forkserver"]
    with subprocess.Popen(
        [sys.executable, *module, *words, "--idle-s", "0.5"], env={}, pass_fds=[lock]
    ) as server:
        os.close(lock)
        asyncio.run(until((own / warm.SOCKET).exists))
        yield server


@pytest.mark.slow
@in_loop
async def test_who_is_needed_by_nobody_leaves(
    tmp_path: Path, directory: Path, hasty: subprocess.Popen[bytes]
) -> None:
    """With its directory; but not as long as there is a shim."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        shim.bundle("a", spec(["true"]))
        with Conversation.start(shim, directory, "a"):
            # One that says nothing keeps it until the shim does.
            await shim.up("b")
            pid = await shim_pid(shim, "b")
            assert hasty.pid == parent(pid)
        await until(lambda: {pid} == working(hasty.pid))
        woken = wakings(hasty.pid)
        await until(lambda: wakings(hasty.pid) >= woken + 2)
        assert [hasty.pid] == servers(directory)
        await shim.call("b", "shutdown")
        await until(lambda: hasty.poll() is not None)
        assert 0 == hasty.returncode
        assert [] == list(directory.iterdir())
        await shim.up("c")
        assert servers(directory) == [parent(await shim_pid(shim, "c"))]


@pytest.mark.slow
@in_loop
async def test_the_attacher_is_told_and_can_be_missed(
    tmp_path: Path, directory: Path, hasty: subprocess.Popen[bytes]
) -> None:
    """It works for an exec; killed, it is missed by nobody."""
    async with Shim(tmp_path, environment=environment(directory)) as shim:
        await shim.up("a", ["sleep", "1000"])
        await shim.call("a", "create")
        await shim.call("a", "start")
        helper = attacher(hasty.pid)
        asleep = wakings(helper)
        await until(lambda: "pipe" in Path(f"/proc/{helper}/wchan").read_text())
        await shim.exec("a", "e", ["true"])
        await until(lambda: wakings(helper) >= asleep + attaching.TURNS)
        end(helper)
        await until(lambda: attacher(hasty.pid) == 0)
        assert 0 == (await lived(shim, "e")).exit_status
        await shim.call("a", "kill", signal=9)
        await shim.call("a", "wait")
        await shim.call("a", "delete")
        await shim.up("b")
        for name in ("b", "a"):
            await shim.call(name, "shutdown")
        await until(lambda: hasty.poll() is not None)
        assert 0 == hasty.returncode


async def lived(shim: Shim, exec_id: str) -> Any:
    """Have an exec that was added live; return what its Delete is answered."""
    await shim.call("a", "start", exec_id=exec_id)
    await shim.call("a", "wait", exec_id=exec_id)
    return await shim.call("a", "delete", exec_id=exec_id)


def wakings(pid: int) -> int:
    """Return how often a process has slept so far."""
    return int(proc_status(pid)["voluntary_ctxt_switches"])


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
