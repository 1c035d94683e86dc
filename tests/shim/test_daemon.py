"""The server process: what falls to it, what dies with it, and how it leaves."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dunnage.api import typeurl
from dunnage.api.runtime_options_pb2 import Options as RuntimeOptions
from dunnage.api.services import TASK_V3
from dunnage.bootstrap import address, bundle
from dunnage.descriptors import Any as PackedAny
from dunnage.errors import DunnageError, InvalidArgument

from .harness import (
    LIMIT_S,
    Shim,
    ended,
    fifo_reader,
    in_loop,
    is_alive,
    proc_status,
    spec,
    until,
)
from .hog import HOG, limited

pytestmark = pytest.mark.slow

HOST_PID = {"namespaces": [{"type": kind} for kind in ("ipc", "uts", "mount")]}


def stand_in(directory: Path, script: str) -> str:
    """Make a program that is called as the runtime is, and is runc in the end."""
    path = directory / "stand-in"
    path.write_text(f'#!/bin/sh\n{script}\nexec runc "$@"\n')
    path.chmod(0o755)
    return str(path)


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    names = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(name) for name in names]


def socket_of(shim: Shim, id_: str) -> Path:
    """Return the path of the socket of a container's own shim."""
    where = address.socket_address(shim.address, shim.namespace, id_)
    return Path(address.unix_name(where))


async def pid_in(file: Path) -> int:
    """Wait for a file with a pid in it."""
    await until(lambda: file.exists() and file.read_text().strip())
    return int(file.read_text())


# -- processes


@in_loop
async def test_orphans_fall_to_the_shim(tmp_path: Path) -> None:
    """It is a subreaper: what loses its parent in a container becomes its child."""
    async with Shim(tmp_path) as shim:
        config = spec(
            ["sh", "-c", "(sleep 1000 & echo $! >/tmp/orphan); sleep 1000"],
            linux=HOST_PID | {"cgroupsPath": f"/{shim.namespace}"},
        )
        await shim.up("c", config=config)
        created = await shim.call("c", "create")
        await shim.call("c", "start")
        orphan = await pid_in(shim.rootfs / "tmp/orphan")
        server = (await shim.call("c", "connect")).shim_pid
        await until(lambda: str(server) == proc_status(orphan)["PPid"])
        assert {created.pid, orphan} == set(children_of(server))
        # status-kept: an orphan is reaped at once, though nobody asks for it.
        os.kill(orphan, signal.SIGKILL)
        await until(lambda: [created.pid] == children_of(server))


@in_loop
async def test_no_zombie_is_left(tmp_path: Path) -> None:
    """status-kept: after many execs the shim has one child, init, and no zombie."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        created = await shim.call("c", "create")
        await shim.call("c", "start")
        server = (await shim.call("c", "connect")).shim_pid
        for number in range(20):
            exec_id = f"e{number}"
            await shim.exec("c", exec_id, ["sh", "-c", f"exit {number}"])
            await shim.call("c", "start", exec_id=exec_id)
            waited = await shim.call("c", "wait", exec_id=exec_id)
            assert number == waited.exit_status
        # Killed execs are not deleted, and still leave nothing to be reaped.
        await until(lambda: [created.pid] == children_of(server))


@in_loop
async def test_the_runtime_dies_with_the_shim(tmp_path: Path) -> None:
    """A runtime under way when its shim is killed is gone at once."""
    async with Shim(tmp_path) as shim:
        told = tmp_path / "pid"
        sleeps = f'case "$*" in *create*) echo $$ >{told}; exec sleep 1000;; esac'
        shim.runtime = stand_in(tmp_path, sleeps)
        await shim.up("c")
        create = asyncio.create_task(shim.call("c", "create"))
        pid = await pid_in(told)
        server = (await shim.call("c", "connect")).shim_pid
        assert str(server) == proc_status(pid)["PPid"]
        os.kill(server, signal.SIGKILL)
        began = time.monotonic()
        await ended(pid)
        assert time.monotonic() - began < 1
        assert isinstance(await settled(create), Exception)
        assert 0 == shim.delete_action("c").returncode
        assert [] == shim.leftovers("c")


def runs(pid: int, name: str) -> bool:
    """Whether a process has got as far as to run its program."""
    return name == proc_status(pid)["Name"]


async def settled(task: asyncio.Task[object]) -> object:
    """Wait for a task; return its result or its error."""
    await asyncio.wait([task], timeout=LIMIT_S)
    return task.exception() or task.result()


@in_loop
async def test_the_container_holds_no_fd_of_the_shim(tmp_path: Path) -> None:
    """Init and execs have their three streams, and nothing of ours."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        created = await shim.call("c", "create")
        await shim.call("c", "start")
        await shim.exec("c", "e", ["sleep", "1000"])
        started = await shim.call("c", "start", exec_id="e")
        for pid in (created.pid, started.pid):
            await until(functools.partial(runs, pid, "sleep"))
            assert ["0", "1", "2"] == sorted(os.listdir(f"/proc/{pid}/fd"))


@in_loop
async def test_the_runtime_starts_as_the_shim_did(tmp_path: Path) -> None:
    """What the shim changed for itself, limits and signals, a runtime does not have."""
    async with Shim(tmp_path) as shim:
        told = tmp_path / "told"
        shim.runtime = stand_in(
            tmp_path, f"(ulimit -Sn; cat /proc/self/status) >{told}"
        )
        shim.bundle("c", spec(["true"]))
        # A shell has nothing ignored and nothing blocked, here as under systemd.
        prefix = ["sh", "-c", 'ulimit -Sn 512; exec "$@"', "daemon"]
        done = await asyncio.to_thread(shim.start_action, "c", prefix=prefix)
        await shim.connect("c", done.stdout)
        await shim.call("c", "create")
        server = (await shim.call("c", "connect")).shim_pid
        assert "512" not in nofile_of(server)
        assert "512" == told.read_text().splitlines()[0]
        status = told.read_text()
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert 0 == ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))
        assert 0 == int(status.partition("SigBlk:")[2].split()[0], 16)


def nofile_of(pid: int) -> list[str]:
    """Return the soft and hard limit on open files of a process."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    return limits.partition("Max open files")[2].split()[:2]


# -- exits


@in_loop
async def test_the_exit_is_on_disk_before_it_is_said(tmp_path: Path) -> None:
    """exit-on-disk: the record is there when the event comes, with all that it says."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sh", "-c", "exit 9"])
        created = await shim.call("c", "create")
        assert bundle.read_exit(str(shim.bundles / "c")) is None
        await shim.call("c", "start")
        event = await shim.wait_for_event("TaskExit")
        record = bundle.read_exit(str(shim.bundles / "c"))
        assert record == bundle.ExitRecord(
            "c", created.pid, 9, event.exited_at.ToNanoseconds()
        )
        mode = (shim.bundles / "c" / bundle.EXIT).stat().st_mode & 0o777
        assert 0o600 == mode


@pytest.fixture
def pod_pid() -> Iterator[int]:
    """Give the pid of a process in a pid namespace of its own."""
    # unshare stays outside, and takes its child, the namespace's init, with it.
    argv = ["unshare", "--pid", "--fork", "--kill-child", "sleep", "1000"]
    with subprocess.Popen(argv) as outer:
        try:
            while not (inner := children_of(outer.pid)):
                time.sleep(0.01)
            yield inner[0]
        finally:
            outer.kill()


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("how", ["host", "shared"])
@in_loop
async def test_no_process_outlives_its_init(
    tmp_path: Path, runtime: str, how: str, pod_pid: int
) -> None:
    """Without a pid namespace of its own, a container's others are killed with init."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        linux = HOST_PID | {"cgroupsPath": f"/{shim.namespace}"}
        if how == "shared":
            entry = {"type": "pid", "path": f"/proc/{pod_pid}/ns/pid"}
            linux["namespaces"] = [*HOST_PID["namespaces"], entry]
        config = spec(
            ["sh", "-c", "sleep 1000 & : >/tmp/forked; read x; exit 6"], linux=linux
        )
        await shim.up("c", config=config)
        os.mkfifo(tmp_path / "in")
        await shim.call("c", "create", stdin=str(tmp_path / "in"))
        await shim.call("c", "start")
        await shim.exec("c", "e", ["sleep", "1000"])
        exec_pid = (await shim.call("c", "start", exec_id="e")).pid
        await until((shim.rootfs / "tmp/forked").exists)
        others = {p.pid for p in (await shim.call("c", "pids")).processes}
        assert exec_pid in others
        assert 3 == len(others)
        (tmp_path / "in").write_text("end\n")
        assert 6 == (await shim.call("c", "wait")).exit_status
        for pid in others:
            await ended(pid)
        assert 6 == (await shim.call("c", "delete")).exit_status
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
        assert ["Exit e", "Exit", "Delete e", "Delete"] == shim.kinds()[-4:]


# -- leaving


@in_loop
async def test_shutdown_with_a_container_does_nothing(tmp_path: Path) -> None:
    """leaves-clean: as long as there is a container nobody can make the shim leave."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        for now in (False, True):
            await shim.call("c", "shutdown", now=now)
            await shim.call("c", "shutdown", id="other", now=now)
        assert socket_of(shim, "c").is_socket()
        await shim.reconnect("c")
        assert 1 == (await shim.call("c", "state")).status  # created


@in_loop
async def test_shutdown_unlinks_the_socket_before_it_answers(tmp_path: Path) -> None:
    """leaves-clean: who hears the answer meets no leaving shim; and then it is gone."""
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        server = (await shim.call("c", "connect")).shim_pid
        await shim.call("c", "shutdown")
        assert not socket_of(shim, "c").exists()
        await ended(server)
        done = shim.start_action("c")  # a successor with the same id
        assert (0, b"") == (done.returncode, done.stderr)
        await shim.connect("c", done.stdout)
        assert server != (await shim.call("c", "connect")).shim_pid


@in_loop
async def test_a_leaving_shim_spares_its_successor_s_socket(tmp_path: Path) -> None:
    """leaves-clean: a socket that is not its own any more stays."""
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        server = (await shim.call("c", "connect")).shim_pid
        path = socket_of(shim, "c")
        path.unlink()
        done = shim.start_action("c")
        assert 0 == done.returncode
        await shim.call("c", "shutdown")
        await ended(server)
        assert path.is_socket()
        await shim.connect("c", done.stdout)
        assert server != (await shim.call("c", "connect")).shim_pid


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@in_loop
async def test_a_signal_makes_it_leave(tmp_path: Path, signum: int) -> None:
    """SIGTERM ends the shim in an orderly way, and its containers go on."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        created = await shim.call("c", "create")
        await shim.call("c", "start")
        wait = asyncio.create_task(shim.call("c", "wait"))
        server = (await shim.call("c", "connect")).shim_pid
        began = time.monotonic()
        os.kill(server, signum)
        await ended(server)
        assert time.monotonic() - began < 3
        assert not socket_of(shim, "c").exists()
        assert isinstance(await settled(wait), Exception)
        assert ["Create", "Start"] == shim.kinds()
        assert is_alive(created.pid)
        assert "dies" not in shim.log("c")


@in_loop
async def test_a_full_log_blocks_nobody(tmp_path: Path) -> None:
    """A daemon that does not read the log fifo keeps no container from its life."""
    async with Shim(tmp_path) as shim:
        directory = shim.bundle("c", spec(["sh", "-c", "exit 3"]))
        full = os.open(directory / "log", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(full, bytes(1 << 20))
            done = await asyncio.to_thread(shim.start_action, "c")
            await shim.connect("c", done.stdout)
            await shim.call("c", "create")
            await shim.call("c", "start")
            assert 3 == (await shim.call("c", "wait")).exit_status
        finally:
            os.close(full)


@in_loop
async def test_the_log_goes_to_the_fifo(tmp_path: Path) -> None:
    """Each record is a line that names runtime and namespace; -debug says more."""
    async with Shim(tmp_path) as shim:
        for id_, debug in (("a", False), ("b", True)):
            shim.bundle(id_, spec(["true"]))
            done = await asyncio.to_thread(shim.start_action, id_, debug=debug)
            client = await shim.connect(id_, done.stdout)
            await shim.call(id_, "connect")
            # What breaks the protocol is worth a warning.
            raw = socket.socket(socket.AF_UNIX)
            raw.connect(str(socket_of(shim, id_)))
            raw.sendall(b"\xff" * 64)
            raw.close()
            seen = ""
            async with asyncio.timeout(LIMIT_S):
                while "level=warning" not in seen:
                    seen += shim.log(id_)
                    await asyncio.sleep(0.01)
            for line in seen.splitlines():
                assert line.startswith('time="')
                assert line.endswith(f"namespace={shim.namespace}")
            assert debug == ("level=debug" in seen)
            client.close()


@in_loop
async def test_a_running_shim_imports_nothing(tmp_path: Path) -> None:
    """imports-nothing-later: a whole life, and refusals, need no module from disk."""
    async with Shim(tmp_path, environment={"PYTHONPROFILEIMPORTTIME": "1"}) as shim:
        shim.bundle("c", limited(["sh", "-c", "echo out; exit 3"]))
        done = await asyncio.to_thread(shim.start_action, "c")
        await shim.connect("c", done.stdout)
        await shim.call("c", "connect")
        shim.log("c")  # what was imported until now
        for id_ in ("a/b", "x" * 99):
            with pytest.raises(InvalidArgument):
                await shim.call("c", "create", id=id_)
        with pytest.raises(DunnageError):
            await shim.call("c", "create", options=PackedAny(type_url="x", value=b"y"))
        toml = typeurl.pack(RuntimeOptions(config_body=b"Bad = 1979-05-27\n[x]"))
        with pytest.raises(DunnageError):
            await shim.call("c", "create", options=toml)
        long = "lowerdir=" + ":".join(f"/nowhere/{number}" for number in range(999))
        for kind, *words in (
            ("nosuchfs",),
            ("fuse.none",),
            ("ext4", "loop"),
            ("overlay", long),
            ("bind", "bind", "uidmap=0:1:2", "gidmap=0:1:2"),
        ):
            mount = {"type": kind, "source": "/dev/null", "options": words}
            with pytest.raises(DunnageError):
                await shim.call("c", "create", rootfs=[mount])
        async with fifo_reader(tmp_path / "out") as said:
            os.mkfifo(tmp_path / "in")
            stdin, stdout = str(tmp_path / "in"), str(tmp_path / "out")
            await shim.call("c", "create", stdin=stdin, stdout=stdout)
            await shim.exec("c", "e", ["true"])
            await shim.call("c", "start", exec_id="e", methods=TASK_V3)
            await shim.call("c", "wait", exec_id="e")
            await shim.call("c", "pids")
            await shim.call("c", "stats")
            await shim.call("c", "update", resources={"value": b"{}"})
            await shim.exec("c", "hog", HOG)
            await shim.call("c", "start", exec_id="hog")
            await shim.wait_for_event("TaskOOM")
            await shim.call("c", "start")
            await shim.call("c", "wait")
            await shim.call("c", "delete")
            assert b"out\n" == await said
        server = (await shim.call("c", "connect")).shim_pid
        log = shim.log("c")
        await shim.call("c", "shutdown")
        await ended(server)
        log += shim.log("c")
        imported = [line for line in log.splitlines() if "import time" in line]
        assert [] == imported


_FAILS = """
import sys
from dunnage.bootstrap import wire
from dunnage.bootstrap.flags import Flags
from dunnage.shim import daemon, socket_file

async def run(self):
    raise RuntimeError("planted")

daemon.Daemon.run = run
told = wire.parse_start(b"", Flags(), {})
sys.exit(daemon.serve(Flags(id="c"), told, socket_file.bind(sys.argv[1])))
"""


def test_a_shim_that_dies_of_itself_takes_its_socket_along(tmp_path: Path) -> None:
    """leaves-clean: nobody is led to a shim that is not there; the log says why."""
    (tmp_path / "log").touch()
    path = tmp_path / "s" / "socket"
    argv = [sys.executable, "-c", _FAILS, str(path)]
    done = subprocess.run(argv, cwd=tmp_path, check=False, timeout=LIMIT_S)
    assert 1 == done.returncode
    assert "planted" in (tmp_path / "log").read_text()
    assert path.parent.is_dir()
    assert not path.exists()


# -- without start


@in_loop
async def test_it_serves_where_it_is_told_to(tmp_path: Path) -> None:
    """Without an action it serves in the foreground, on -socket or on fd 3."""
    async with Shim(tmp_path) as shim:
        directory = shim.bundle("c", spec(["true"]))
        path = tmp_path / "x.sock"

        def is_served() -> bool:
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(path)) == 0

        argv = shim.flags("c", "", socket=f"unix://{path}")
        first = subprocess.Popen(argv, cwd=directory, env=shim.env)
        try:
            await until(is_served)
            await shim.connect("c", f"unix://{path}".encode())
            assert first.pid == (await shim.call("c", "connect")).shim_pid
            second = subprocess.run(
                argv, cwd=directory, capture_output=True, check=False
            )
            assert (1, b"") == (second.returncode, second.stdout)
            assert b"is served already" in second.stderr
            await shim.call("c", "shutdown")
            assert 0 == await asyncio.to_thread(first.wait, LIMIT_S)
        finally:
            first.kill()
            first.wait()
        assert not path.exists()


@in_loop
async def test_without_a_socket_it_says_so(tmp_path: Path) -> None:
    """No -socket, and no socket as fd 3: one line, exit 1."""
    async with Shim(tmp_path) as shim:
        directory = shim.bundle("c", spec(["true"]))
        argv = shim.flags("c", "")
        done = subprocess.run(argv, cwd=directory, capture_output=True, check=False)
        assert (1, b"") == (done.returncode, done.stdout)
        assert b"no -socket, and no socket as fd 3" in done.stderr
        assert 1 == len(done.stderr.splitlines())


@in_loop
async def test_output_of_a_container_survives_sigpipe(tmp_path: Path) -> None:
    """stdio-survives: a reader that leaves kills neither the shim nor the container."""
    async with Shim(tmp_path) as shim:
        script = "echo a; read x; yes | head -c 10000; echo b >&2; exit 5"
        await shim.up("c", ["sh", "-c", script])
        os.mkfifo(tmp_path / "out")
        os.mkfifo(tmp_path / "in")
        async with fifo_reader(tmp_path / "err") as err:
            await shim.call(
                "c",
                "create",
                stdin=str(tmp_path / "in"),
                stdout=str(tmp_path / "out"),
                stderr=str(tmp_path / "err"),
            )
            reader = os.open(tmp_path / "out", os.O_RDONLY)
            await shim.call("c", "start")
            assert b"a\n" == await asyncio.to_thread(os.read, reader, 2)
            os.close(reader)
            (tmp_path / "in").write_text("go\n")
            assert 5 == (await shim.call("c", "wait")).exit_status
            assert b"b\n" == await err
