"""Out of fds, processes, disk: a clear error, nothing left, and all is well after."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dunnage.api import process_pb2
from dunnage.bootstrap import bundle
from dunnage.conformance.decoder import decode
from dunnage.conformance.oracle import judge
from dunnage.errors import DunnageError, NotFound, ResourceExhausted, Unknown
from dunnage.testing.daemon import FakeDaemon

from .harness import (
    LIMIT_S,
    Shim,
    fill,
    in_loop,
    spec,
    tiny_disk,
    until,
)
from .test_pods import LIFE
from .test_service import gated
from .test_strangers import elsewhere, fds_of, unharmed
from .test_terminal import terminal_spec

pytestmark = pytest.mark.slow

STREAMS = ("stdin", "stdout", "stderr")
RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])


@contextlib.contextmanager
def few_fds(pid: int, count: int) -> Iterator[None]:
    """Let a process have only so many descriptors more than now."""
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    most = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most + 1 + count, old[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)


@contextlib.contextmanager
def no_fds(pid: int) -> Iterator[None]:
    """Let a process open nothing more, as if others had taken what it might have."""
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    free = min(set(range(len(used) + 1)) - used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, old[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)


@contextlib.contextmanager
def few_processes(pid: int, count: int) -> Iterator[None]:
    """Let a process, in a cgroup of its own, have only so many children."""
    root = Path("/sys/fs/cgroup/pids")
    if not root.exists():
        root = Path("/sys/fs/cgroup")
    old = next(
        line.rpartition(":")[2]
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if ":pids:" in line or line.startswith("0::")
    )
    group = root / f"dunnage-test-{secrets.token_hex(4)}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text(str(1 + count))
        yield
    finally:
        (group / "pids.max").write_text("max")
        for member in (group / "cgroup.procs").read_text().split():
            (root / old.lstrip("/") / "cgroup.procs").write_text(member)
        group.rmdir()


def mounts_under(directory: Path) -> list[str]:
    """Return the mount points below a directory."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if str(directory) in line.split()[4]]


def traces(shim: Shim, id_: str) -> list[str]:
    """Name what an operation that failed could have left of a container."""
    directory = shim.bundles / id_
    state = Path("/run/containerd/runc") / shim.namespace / id_
    found = mounts_under(directory) + [str(state)] * state.exists()
    return found + files(shim, id_)


def files(shim: Shim, id_: str) -> list[str]:
    """Name the files of an operation that may not outlive it."""
    directory = shim.bundles / id_
    patterns = ("exec-*", "console-*", ".*")
    return [str(path) for pattern in patterns for path in directory.glob(pattern)]


async def refused_until_ok(
    shim: Shim, id_: str, refusals: list[DunnageError], **fields: object
) -> None:
    """Create, start and delete a container; note the call that is refused."""
    streams = {name: str(shim.directory / name) for name in ("stdout", "stderr")}
    try:
        await shim.call("c", "create", **elsewhere(shim, id_) | streams | fields)
    except DunnageError as error:
        refusals.append(error)
        with pytest.raises(NotFound):
            await shim.call("c", "state", id=id_)
        return
    try:
        await shim.call("c", "start", id=id_)
        await shim.call("c", "wait", id=id_)
        await shim.call("c", "delete", id=id_)
    except DunnageError as error:
        refusals.append(error)


# -- descriptors


@RUNTIMES
@pytest.mark.parametrize("terminal", [False, True])
@in_loop
async def test_a_create_without_descriptors(
    tmp_path: Path, runtime: str, terminal: bool
) -> None:
    """Wherever they run out: ResourceExhausted, nothing left, and then it works."""
    async with Shim(tmp_path, runtime=runtime) as shim, unharmed(shim):
        pid = (await shim.call("c", "connect")).shim_pid
        for name in ("stdout", "stderr"):
            os.mkfifo(tmp_path / name)
        shim.bundle("d", terminal_spec(["true"]) if terminal else spec(["true"]))
        before = fds_of(pid)
        fields: dict[str, object] = {}
        if terminal:
            fields = {"terminal": True, "stderr": ""}
        for count in range(40):
            refusals: list[DunnageError] = []
            with few_fds(pid, count):
                await refused_until_ok(shim, "d", refusals, **fields)
            if not refusals:
                break
            with contextlib.suppress(NotFound):  # what a later call has refused
                await shim.call("c", "delete", id="d")
            assert [ResourceExhausted] == [type(it) for it in refusals], refusals
            assert "too many open files" in str(refusals[0]).lower()
            assert [] == traces(shim, "d")
            assert before == fds_of(pid)
        else:
            pytest.fail("it never works")
        assert count > 5
        # Nobody read its streams: let them go.
        for name in ("stdout", "stderr"):
            os.close(os.open(tmp_path / name, os.O_RDWR | os.O_NONBLOCK))


@RUNTIMES
@pytest.mark.parametrize("terminal", [False, True])
@in_loop
async def test_an_exec_without_descriptors(
    tmp_path: Path, runtime: str, terminal: bool
) -> None:
    """Wherever they run out: ResourceExhausted, nothing left, and then it works."""
    async with Shim(tmp_path, runtime=runtime) as shim, unharmed(shim):
        pid = (await shim.call("c", "connect")).shim_pid
        shim.bundle("d", terminal_spec(["sleep", "1000"]))  # which has /dev/pts
        await shim.call("c", "create", **elsewhere(shim, "d"), terminal=True)
        await shim.call("c", "start", id="d")
        fields: dict[str, Any] = {}
        for name in ("stdin", "stdout") if terminal else STREAMS:
            fields[name] = str(tmp_path / name)
            os.mkfifo(fields[name])
        before = fds_of(pid)
        for count in range(40):
            await shim.exec("c", "e", ["true"], id="d", terminal=terminal, **fields)
            refusal = None
            with few_fds(pid, count):
                try:
                    await shim.call("c", "start", id="d", exec_id="e")
                except DunnageError as error:
                    refusal = error
            if refusal is None:
                break
            assert isinstance(refusal, ResourceExhausted), refusal
            assert "too many open files" in str(refusal).lower()
            assert [] == files(shim, "d")
            assert before == fds_of(pid)
            await shim.call("c", "delete", id="d", exec_id="e")
        else:
            pytest.fail("it never works")
        assert count > 5
        assert 0 == (await shim.call("c", "wait", id="d", exec_id="e")).exit_status
        # Nobody read its streams: let them go.
        for path in fields.values():
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        await shim.call("c", "delete", id="d", exec_id="e")
        await shim.call("c", "kill", id="d", signal=9)
        await shim.call("c", "wait", id="d")
        await shim.call("c", "delete", id="d")


@RUNTIMES
@pytest.mark.parametrize("terminal", [False, True])
@in_loop
async def test_descriptors_that_run_out_while_the_runtime_runs(
    tmp_path: Path, runtime: str, terminal: bool
) -> None:
    """What it has made is known, and can be ended: descriptors are kept for that."""
    config = (terminal_spec if terminal else spec)(["sleep", "1000"])
    async with Shim(tmp_path, runtime=runtime) as shim, unharmed(shim):
        pid = (await shim.call("c", "connect")).shim_pid
        shim.bundle("d", config)
        with gated(shim, "create") as gate:
            create = asyncio.create_task(
                shim.call("c", "create", **elsewhere(shim, "d"), terminal=terminal)
            )
            await gate.reached()
            with no_fds(pid):
                gate.open()
                init = (await create).pid
                refusals: list[DunnageError] = []
                # What is spare may do for a start, too.
                try:
                    await shim.call("c", "start", id="d")
                except ResourceExhausted as error:
                    refusals.append(error)
        for refusal in refusals:
            assert "too many open files" in str(refusal).lower()
            await shim.call("c", "start", id="d")
        os.kill(init, 9)
        assert 137 == (await shim.call("c", "wait", id="d")).exit_status
        await shim.call("c", "delete", id="d")
        assert [] == traces(shim, "d")


@in_loop
async def test_execs_kills_and_deletes_without_descriptors(tmp_path: Path) -> None:
    """Each is refused and can be repeated; State answers, and the exit is said."""
    async with Shim(tmp_path) as shim, unharmed(shim):
        pid = (await shim.call("c", "connect")).shim_pid
        shim.bundle("d", spec(["sleep", "1000"]))
        await shim.call("c", "create", **elsewhere(shim, "d"))
        await shim.call("c", "start", id="d")
        await shim.exec("c", "e", ["true"])
        init = (await shim.call("c", "state", id="d")).pid
        with few_fds(pid, 0):
            for method, fields in (
                ("start", {"exec_id": "e"}),
                ("kill", {"id": "d", "signal": 9}),
                ("pids", {"id": "d"}),
            ):
                with pytest.raises(ResourceExhausted, match=r"(?i)too many open files"):
                    await shim.call("c", method, **fields)
            state = await shim.call("c", "state", id="d")
            assert process_pb2.RUNNING == state.status
            os.kill(init, 9)
            exited = await shim.wait_for_event("TaskExit", container_id="d")
            assert 137 == exited.exit_status
            with pytest.raises(ResourceExhausted, match=r"(?i)too many open files"):
                await shim.call("c", "delete", id="d")
        assert bundle.read_exit(str(shim.bundles / "d")) is None
        assert 'msg="the exit is not on disk: ' in shim.log("c")
        await shim.call("c", "delete", exec_id="e")
        assert 137 == (await shim.call("c", "delete", id="d")).exit_status
        assert [] == traces(shim, "d")


@in_loop
async def test_events_wait_for_a_descriptor(tmp_path: Path) -> None:
    """fifo: a daemon that comes back meanwhile is told when there is one, in order."""
    async with Shim(tmp_path) as shim:
        await shim.close_events()
        async with FakeDaemon(f"{shim.address}.ttrpc") as daemon, unharmed(shim):
            pid = (await shim.call("c", "connect")).shim_pid
            await shim.exec("c", "e", ["sleep", "1000"])
            started = await shim.call("c", "start", exec_id="e")
            held = len(fds_of(pid))
            daemon.stop()
            await until(lambda: len(fds_of(pid)) < held)  # the shim hangs up, too
            before = daemon.connections
            with no_fds(pid):
                daemon.start()
                os.kill(started.pid, 9)
                waited = await shim.call("c", "wait", exec_id="e")
                assert 137 == waited.exit_status
                waits = r"events wait to be said: .*(?i:too many open files)"
                await until(lambda: re.search(waits, shim.log("c")))
                assert before == daemon.connections
            await shim.call("c", "delete", exec_id="e")
        assert [] == judge(map(decode, daemon.stream()), is_whole=True)
        assert [] == daemon.inexcusable()


# -- processes


@RUNTIMES
@in_loop
async def test_a_create_without_processes(tmp_path: Path, runtime: str) -> None:
    """Whether we or the runtime cannot fork: an error, nothing left, then it works."""
    async with Shim(tmp_path, runtime=runtime) as shim, unharmed(shim):
        pid = (await shim.call("c", "connect")).shim_pid
        for name in ("stdout", "stderr"):
            os.mkfifo(tmp_path / name)
        shim.bundle("d", spec(["true"]))
        before = fds_of(pid)
        for count in (0, 1, 2, 4, 1000):
            refusals: list[DunnageError] = []
            with few_processes(pid, count):
                await refused_until_ok(shim, "d", refusals)
            with contextlib.suppress(NotFound):  # what a later call has refused
                await shim.call("c", "delete", id="d")
            for error in refusals:
                assert count < 1000
                assert isinstance(error, ResourceExhausted | Unknown)
            if count == 0:
                assert [ResourceExhausted] == [type(it) for it in refusals]
                assert "resource temporarily unavailable" in str(refusals[0])
            await until(lambda: not mounts_under(shim.bundles / "d"))
            if refusals:
                assert before == fds_of(pid)
        for name in ("stdout", "stderr"):
            os.close(os.open(tmp_path / name, os.O_RDWR | os.O_NONBLOCK))


@RUNTIMES
@in_loop
async def test_an_exec_without_processes(tmp_path: Path, runtime: str) -> None:
    """Whether we or the runtime cannot fork: an error, nothing left, then it works."""
    async with Shim(tmp_path, runtime=runtime) as shim, unharmed(shim):
        pid = (await shim.call("c", "connect")).shim_pid
        before = fds_of(pid)
        refused: dict[int, DunnageError] = {}
        for count in (1, 2, 3, 4, 6, 8, 1000):
            exec_id = f"e{count}"
            await shim.exec("c", exec_id, ["true"])
            # The shim's children of before stay in the cgroup that they are in.
            with few_processes(pid, count):
                try:
                    await shim.call("c", "start", exec_id=exec_id)
                    await shim.call("c", "wait", exec_id=exec_id)
                except DunnageError as error:
                    refused[count] = error
            await shim.call("c", "delete", exec_id=exec_id)
            assert [] == files(shim, "c")
            await until(lambda: before == fds_of(pid))
            assert 1 == len((await shim.call("c", "pids")).processes)
        assert 1 in refused
        assert 1000 not in refused
        for refusal in refused.values():
            assert isinstance(refusal, ResourceExhausted | Unknown)
            assert "exec failed" in str(refusal)
        assert "Traceback" not in shim.log("c")


@in_loop
async def test_execs_kills_and_deletes_without_processes(tmp_path: Path) -> None:
    """Each is refused and can be repeated; the exit is on disk, and said."""
    async with Shim(tmp_path) as shim, unharmed(shim):
        pid = (await shim.call("c", "connect")).shim_pid
        shim.bundle("d", spec(["sleep", "1000"]))
        await shim.call("c", "create", **elsewhere(shim, "d"))
        await shim.call("c", "start", id="d")
        await shim.exec("c", "e", ["true"])
        init = (await shim.call("c", "state", id="d")).pid
        reason = r"resource temporarily unavailable"
        with few_processes(pid, 0):
            for method, fields in (
                ("start", {"exec_id": "e"}),
                ("kill", {"id": "d", "signal": 9}),
                ("pids", {"id": "d"}),
            ):
                with pytest.raises(ResourceExhausted, match=reason):
                    await shim.call("c", method, **fields)
            os.kill(init, 9)
            exited = await shim.wait_for_event("TaskExit", container_id="d")
            assert 137 == exited.exit_status
            with pytest.raises(ResourceExhausted, match=reason):
                await shim.call("c", "delete", id="d")
        record = bundle.read_exit(str(shim.bundles / "d"))
        assert record is not None
        assert 137 == record.exit_status
        await shim.call("c", "delete", exec_id="e")
        assert 137 == (await shim.call("c", "delete", id="d")).exit_status
        assert [] == traces(shim, "d")


@in_loop
async def test_a_kill_all_that_could_not_fork_is_made_up_for(tmp_path: Path) -> None:
    """In a shared pid namespace an exec outlives init no longer than the shortage."""
    host = {"namespaces": [{"type": kind} for kind in ("ipc", "uts", "mount")]}
    name = f"dunnage-test-{secrets.token_hex(4)}"
    config = spec(["sleep", "1000"], linux=host | {"cgroupsPath": f"/{name}"})
    async with Shim(tmp_path) as shim, unharmed(shim):
        pid = (await shim.call("c", "connect")).shim_pid
        shim.bundle("d", config)
        await shim.call("c", "create", **elsewhere(shim, "d"))
        await shim.call("c", "start", id="d")
        await shim.exec("c", "e", ["sleep", "1000"], id="d")
        await shim.call("c", "start", id="d", exec_id="e")
        init = (await shim.call("c", "state", id="d")).pid
        with few_processes(pid, 0):
            os.kill(init, 9)
            await until(lambda: "kill all: " in shim.log("c"))
        await shim.wait_for_event("TaskExit", container_id="d", id="d")
        await shim.call("c", "delete", id="d", exec_id="e")
        await shim.call("c", "delete", id="d")


# -- disks


@contextlib.asynccontextmanager
async def read_only(directory: Path) -> AsyncIterator[None]:
    """Make a disk read-only for a while."""
    remount = ["mount", "-o", "remount,ro", str(directory)]
    subprocess.run(remount, check=True, timeout=LIMIT_S)
    try:
        yield
    finally:
        remount[2] = "remount,rw"
        subprocess.run(remount, check=True, timeout=LIMIT_S)


@RUNTIMES
@in_loop
async def test_a_read_only_bundle(tmp_path: Path, runtime: str) -> None:
    """Create and an exec's start say so; the exit is said; then all works."""
    async with Shim(tmp_path, runtime=runtime) as shim, unharmed(shim):
        disk = shim.bundles / "d"
        disk.mkdir()
        tiny_disk(disk)
        fields: dict[str, Any] = {"id": "d", "bundle": str(disk / "bundle")}
        shim.bundle("d/bundle", spec(["sh", "-c", "read x; exit 8"]))
        async with read_only(disk):
            with pytest.raises(DunnageError, match=r"(?i)read-only file system"):
                await shim.call("c", "create", **fields)
            with pytest.raises(NotFound):
                await shim.call("c", "state", id="d")
        assert [] == traces(shim, "d/bundle")
        os.mkfifo(tmp_path / "in")
        await shim.call("c", "create", **fields, stdin=str(tmp_path / "in"))
        await shim.call("c", "start", id="d")
        await shim.exec("c", "e", ["true"], id="d")
        with (
            bound_read_only(disk),
            pytest.raises(DunnageError, match=r"(?i)read-only file system"),
        ):
            await shim.call("c", "start", id="d", exec_id="e")
        await shim.call("c", "delete", id="d", exec_id="e")
        await shim.exec("c", "e", ["true"], id="d")
        await shim.call("c", "start", id="d", exec_id="e")
        await shim.call("c", "wait", id="d", exec_id="e")
        (tmp_path / "in").write_text("end\n")
        assert 8 == (await shim.call("c", "wait", id="d")).exit_status
        await shim.call("c", "delete", id="d", exec_id="e")
        await shim.call("c", "delete", id="d")


@contextlib.contextmanager
def bound_read_only(disk: Path) -> Iterator[None]:
    """Have a directory read-only by its path, though there are files open in it."""
    subprocess.run(["mount", "--bind", disk, disk], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)
        yield
    finally:
        subprocess.run(["umount", disk], check=True)


@RUNTIMES
@in_loop
async def test_a_bundle_that_becomes_read_only(tmp_path: Path, runtime: str) -> None:
    """What runs in it answers, can be killed, and its exit is said; then deleted."""
    async with Shim(tmp_path, runtime=runtime) as shim, unharmed(shim):
        directory = shim.bundle("d", spec(["sleep", "1000"]))
        await shim.call("c", "create", **elsewhere(shim, "d"))
        await shim.call("c", "start", id="d")
        await shim.exec("c", "e", ["sleep", "1000"], id="d")
        await shim.call("c", "start", id="d", exec_id="e")
        refused: list[tuple[dict[str, Any], DunnageError]] = []
        with bound_read_only(directory):
            assert 2 == len((await shim.call("c", "pids", id="d")).processes)
            await shim.call("c", "kill", id="d", exec_id="e", signal=9)
            await shim.call("c", "wait", id="d", exec_id="e")
            await shim.call("c", "kill", id="d", signal=9)
            assert 137 == (await shim.call("c", "wait", id="d")).exit_status
            await shim.wait_for_event("TaskExit", container_id="d", id="d")
            assert 'msg="the exit is not on disk: ' in shim.log("c")
            deletes: list[dict[str, Any]] = [{"exec_id": "e"}, {}]
            for fields in deletes:
                try:
                    await shim.call("c", "delete", id="d", **fields)
                except DunnageError as error:
                    refused.append((fields, error))
        for fields, refusal in refused:
            assert "read-only file system" in str(refusal).lower()
            answer = await shim.call("c", "delete", id="d", **fields)
            assert 137 == answer.exit_status
        assert LIFE == shim.kinds("d")
        assert [] == traces(shim, "d")


@RUNTIMES
@in_loop
async def test_a_full_disk_that_has_room_again(tmp_path: Path, runtime: str) -> None:
    """A Create that met it can be repeated, in the same shim and bundle."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        tiny_disk(shim.bundles)
        async with unharmed(shim):
            shim.bundle("d", spec(["true"]))
            ballast = fill(shim.bundles)
            with pytest.raises(ResourceExhausted, match=r"(?i)no space left on device"):
                await shim.call("c", "create", **elsewhere(shim, "d"))
            assert [] == traces(shim, "d")
            ballast.unlink()
            await shim.call("c", "create", **elsewhere(shim, "d"))
            await shim.call("c", "start", id="d")
            await shim.call("c", "wait", id="d")
            await shim.call("c", "delete", id="d")


@contextlib.asynccontextmanager
async def two_inodes() -> AsyncIterator[Path]:
    """Make a disk for its root and one file; its path is short, as of a socket's."""
    with tempfile.TemporaryDirectory(prefix="dunnage-") as directory:
        options = ["-o", "size=64k,nr_inodes=2"]
        argv = ["mount", "-t", "tmpfs", *options, "tiny", directory]
        subprocess.run(argv, check=True)
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", directory], check=True)


@in_loop
async def test_a_full_socket_directory(tmp_path: Path) -> None:
    """Start says so in a line, and leaves neither process nor socket; then it works."""
    async with Shim(tmp_path) as shim, two_inodes() as sockets:
        (sockets / "ballast").touch()
        shim.bundle("c", spec(["true"]))
        shim.params = True
        stdin = shim.start_stdin("c", socket_dir=str(sockets))
        done = await asyncio.to_thread(shim.start_action, "c", stdin)
        assert (1, b"") == (done.returncode, done.stdout)
        assert 1 == len(done.stderr.splitlines())
        assert b"no space left on device" in done.stderr.lower()
        assert ["ballast"] == os.listdir(sockets)
        (sockets / "ballast").unlink()
        done = await asyncio.to_thread(shim.start_action, "c", stdin)
        assert 0 == done.returncode
        await shim.connect("c", done.stdout)
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
