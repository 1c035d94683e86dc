"""``delete`` from outside: it buries what a shim left, and may be called again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.machine import pids_with

from dunnage.bootstrap import address, bundle, wire
from dunnage.errors import ConnectionBroken

from .altered import altered
from .harness import OURS, Shim, ended, in_loop, is_alive, spec, until

pytestmark = pytest.mark.slow


def answer(done: subprocess.CompletedProcess[bytes]) -> wire.Deleted:
    """Return what a delete said, if that is all that it said."""
    assert (0, b"") == (done.returncode, done.stderr)
    return wire.parse_deleted(done.stdout)


def socket_of(shim: Shim, group: str) -> Path:
    """Return the path of the socket of a group."""
    where = address.socket_address(shim.address, shim.namespace, group)
    return Path(address.unix_name(where))


@in_loop
async def test_a_container_that_never_was(tmp_path: Path) -> None:
    """With nothing but a config.json it says 137 and now, and says so again."""
    async with Shim(tmp_path) as shim:
        directory = shim.bundle("c", spec(["true"]))
        for _ in range(2):
            began = time.time_ns()
            said = answer(shim.delete_action("c"))
            assert (0, 137) == (said.pid, said.exit_status)
            assert said.exited_at_ns is not None
            assert began <= said.exited_at_ns <= time.time_ns()
        assert [] == shim.leftovers("c")
        assert {"config.json", "log", "rootfs"} == {p.name for p in directory.iterdir()}


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@in_loop
async def test_the_true_exit_outlives_the_shim(tmp_path: Path, runtime: str) -> None:
    """exit-on-disk: status and time are those that were known before the shim died."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", ["sh", "-c", "exit 7"])
        created = await shim.call("c", "create")
        await shim.call("c", "start")
        event = await shim.wait_for_event("TaskExit")
        await shim.kill_shim("c")
        for _ in range(2):
            said = answer(shim.delete_action("c"))
            assert (created.pid, 7) == (said.pid, said.exit_status)
            assert event.exited_at.ToNanoseconds() == said.exited_at_ns
            assert [] == shim.leftovers("c")


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("started", [True, False])
@in_loop
async def test_a_container_that_lives_is_killed(
    tmp_path: Path, runtime: str, started: bool
) -> None:
    """Of a container whose shim was killed nothing is left, and its status is 137."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", ["sleep", "1000"])
        pid = (await shim.call("c", "create")).pid
        if started:
            await shim.call("c", "start")
        await shim.kill_shim("c")
        assert is_alive(pid)
        assert shim.leftovers("c")
        for _ in range(2):
            said = answer(shim.delete_action("c"))
            assert (pid, 137) == (said.pid, said.exit_status)
            await ended(pid)
            assert [] == shim.leftovers("c")


@in_loop
async def test_a_stale_exit_is_not_told_of_a_successor(tmp_path: Path) -> None:
    """A record of an earlier container in the same bundle says nothing of this one."""
    async with Shim(tmp_path) as shim:
        config = spec(["sh", "-c", "test -e /tmp/twice && sleep 1000; exit 7"])
        await shim.up("c", config=config)
        await shim.call("c", "create")
        await shim.call("c", "start")
        assert 7 == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete")
        (shim.rootfs / "tmp/twice").touch()
        await shim.call("c", "create")
        await shim.call("c", "start")
        await shim.kill_shim("c")
        assert 137 == answer(shim.delete_action("c")).exit_status


@in_loop
async def test_the_others_of_the_group_live_on(tmp_path: Path) -> None:
    """The delete of one of a group leaves the socket, the shim and its neighbour."""
    async with Shim(tmp_path) as shim:
        annotations = {"io.containerd.runc.v2.group": "pod"}
        for id_ in ("a", "b"):
            config = spec(["sleep", "1000"], annotations=annotations)
            await shim.up(id_, config=config)
            await shim.call(id_, "create")
            await shim.call(id_, "start")
        assert 137 == answer(shim.delete_action("a")).exit_status
        assert 137 == (await shim.call("a", "wait")).exit_status
        assert socket_of(shim, "pod").is_socket()
        await shim.reconnect("b")
        assert 2 == (await shim.call("b", "state")).status  # running


@in_loop
async def test_without_the_files_of_the_shim(tmp_path: Path) -> None:
    """With neither `runtime` nor `options.json` the defaults bury the container."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        await shim.kill_shim("c")
        for name in (bundle.OPTIONS, bundle.RUNTIME, bundle.ADDRESS):
            (shim.bundles / "c" / name).unlink()
        assert 137 == answer(shim.delete_action("c")).exit_status
        # Where the socket is only the file could say; the next start replaces it.
        socket_of(shim, "c").unlink()
        assert [] == shim.leftovers("c")


@in_loop
async def test_the_runtime_s_own_root_is_remembered(tmp_path: Path) -> None:
    """A container whose state is elsewhere is found there, by the bundle's files."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        root = tmp_path / "root"
        pid = (await shim.call("c", "create", options=shim.options(root=str(root)))).pid
        await shim.call("c", "start")
        await shim.kill_shim("c")
        assert (root / shim.namespace / "c").exists()
        assert (pid, 137) == answer(shim.delete_action("c"))[:2]
        await ended(pid)
        assert not (root / shim.namespace / "c").exists()
        assert [] == shim.leftovers("c")


@pytest.mark.parametrize("broken", ["{", "[]", '{"root": 5, "binary_name": ["x"]}'])
@in_loop
async def test_broken_files_are_no_reason_to_fail(tmp_path: Path, broken: str) -> None:
    """Files that make no sense count as missing: it says 137 and ends well."""
    async with Shim(tmp_path) as shim:
        directory = shim.bundle("c", spec(["true"]))
        (directory / bundle.OPTIONS).write_text(broken)
        (directory / bundle.EXIT).write_text(broken)
        (directory / bundle.INIT_PID).write_text(broken)
        (directory / bundle.ADDRESS).write_text("vsock://1:2")
        done = shim.delete_action("c")
        assert 0 == done.returncode
        assert (0, 137) == wire.parse_deleted(done.stdout)[:2]


@in_loop
async def test_an_unknown_runtime_is_told_on_stderr(tmp_path: Path) -> None:
    """A runtime that is gone cannot bury, which the daemon's log should say."""
    async with Shim(tmp_path) as shim:
        directory = shim.bundle("c", spec(["true"]))
        (directory / bundle.RUNTIME).write_text("/nowhere/runc")
        done = shim.delete_action("c")
        assert 0 == done.returncode
        assert b"fork/exec /nowhere/runc: no such file or directory\n" == done.stderr
        assert 137 == wire.parse_deleted(done.stdout).exit_status


@in_loop
async def test_a_bad_id_deletes_nothing(tmp_path: Path) -> None:
    """An id that climbs out of the namespace's bundles is refused."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", spec(["true"]))
        argv = shim.flags("../c", "delete", bundle=str(shim.bundles / "c"))
        done = subprocess.run(argv, capture_output=True, cwd=shim.bundles, check=False)
        assert (1, b"") == (done.returncode, done.stdout)
        assert b"container id '../c'" in done.stderr
        assert 1 == len(done.stderr.splitlines())


@in_loop
async def test_it_needs_no_shim_and_starts_none(tmp_path: Path) -> None:
    """After an orderly end, too, a delete starts nothing and leaves nothing."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sh", "-c", "exit 3"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        await shim.call("c", "wait")
        await shim.call("c", "delete")
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
        assert 3 == answer(shim.delete_action("c")).exit_status
        assert [] == pids_with(shim.namespace)
        assert [] == shim.leftovers("c")


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@in_loop
async def test_a_recycled_pid_is_spared(tmp_path: Path, runtime: str) -> None:
    """Neither we nor the runtime kill by a pid that a file names."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", ["sleep", "1000"])
        pid = (await shim.call("c", "create")).pid
        await shim.call("c", "start")
        await shim.kill_shim("c")
        with subprocess.Popen(["sleep", "1000"]) as innocent:
            (shim.bundles / "c" / bundle.INIT_PID).write_text(str(innocent.pid))
            for name in ("state.json", "status"):
                path = Path("/run/containerd/runc", shim.namespace, "c", name)
                if path.exists():
                    text = path.read_text().replace(str(pid), str(innocent.pid))
                    path.write_text(text)
            assert 137 == answer(shim.delete_action("c")).exit_status
            await ended(pid)
            assert innocent.poll() is None
            innocent.kill()
        assert [] == shim.leftovers("c")


@in_loop
async def test_many_at_once(tmp_path: Path) -> None:
    """Deletes that run at the same time all answer well, and nothing is left."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        pid = (await shim.call("c", "create")).pid
        await shim.call("c", "start")
        await shim.kill_shim("c")
        running = [asyncio.to_thread(shim.delete_action, "c") for _ in range(4)]
        for done in await asyncio.gather(*running):
            assert (pid, 137) == answer(done)[:2]
        await ended(pid)
        assert [] == shim.leftovers("c")


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("how", ["lived", "ended"])
@pytest.mark.parametrize("where", ["before", "after"])
@in_loop
async def test_one_that_is_killed_half_way(
    tmp_path: Path, runtime: str, how: str, where: str
) -> None:
    """The runtime that it called dies with it, and the next one finishes."""
    at, halting = tmp_path / "at", tmp_path / "halting"
    body = {"before": "", "after": f'{runtime} "$@"; '}[where]
    halting.write_text(
        f'#!/bin/sh\ncase " $* " in *" delete "*) if mkdir {tmp_path}/once; then\n'
        f"{body}echo $$ >{at}.new; mv {at}.new {at}; exec sleep 1000; fi;; esac\n"
        f'exec {runtime} "$@"\n'
    )
    halting.chmod(0o755)
    async with Shim(tmp_path, runtime=str(halting)) as shim:
        await shim.up(
            "c", ["sh", "-c", "exit 7"] if how == "ended" else ["sleep", "1000"]
        )
        pid = (await shim.call("c", "create")).pid
        await shim.call("c", "start")
        if how == "ended":
            await shim.call("c", "wait")
        await shim.kill_shim("c")
        argv = shim.flags("c", "delete", bundle=str(shim.bundles / "c"))
        with subprocess.Popen(argv, cwd=shim.bundles / "c", env=shim.env) as halted:
            await until(at.exists)
            halted.kill()
        await ended(int(at.read_text()))
        status = {"ended": 7, "lived": 137}[how]
        for _ in range(2):
            assert (pid, status) == answer(shim.delete_action("c"))[:2]
            assert [] == shim.leftovers("c")


# Where a removal without the runtime is cut short, of the shim's and of a `delete`'s.
IN_NOTES = {
    "half-of-the-notes": """
from dunnage.drivers.runc import notes
def die_amid(self):
    names = sorted(os.listdir(self.state))
    for name in names[len(names) // 2:]:
        os.unlink(f"{self.state}/{name}")
    die()
notes.Notes.remove = die_amid
""",
    "an-empty-directory": """
from dunnage.drivers.runc import notes
def die_late(self):
    for name in os.listdir(self.state):
        os.unlink(f"{self.state}/{name}")
    die()
notes.Notes.remove = die_late
""",
    "notes": """
from dunnage.drivers.runc import notes
remove = notes.Notes.remove
notes.Notes.remove = lambda self: remove(self) and die()
""",
}
IN_A_SHIM = IN_NOTES | {
    "nothing": """
from dunnage.drivers.runc import container
async def die_first(*_):
    die()
container.remove_empty_apart = die_first
""",
    "one-cgroup": """
from dunnage.drivers.runc import container
async def die_amid(_, paths):
    next(filter(None, map(rmdir, paths)))
    die()
def rmdir(path):
    if os.path.isdir(path):
        os.rmdir(path)
        return path
container.remove_empty_apart = die_amid
""",
    "cgroups": """
from dunnage.drivers.runc import container
remove = container.remove_empty_apart
async def remove_and_die(*given):
    if await remove(*given):
        die()
container.remove_empty_apart = remove_and_die
""",
    "traces": """
from dunnage.drivers.runc import container, traces
forget = traces.forget
traces.forget = lambda directory: (forget(directory), die())
""",
    "mounts": """
from dunnage.drivers.runc import container
unmount = container.unmount_recursive_apart
async def unmount_and_die(*given):
    await unmount(*given)
    die()
container.unmount_recursive_apart = unmount_and_die
""",
}
IN_A_DELETE = IN_NOTES | {
    "processes": """
from dunnage.drivers.runc import traces
end = traces.Traces.end_processes
traces.Traces.end_processes = lambda *given: end(*given) and die()
""",
    "cgroups": """
from dunnage.host import cgroups
remove = cgroups.remove
cgroups.remove = lambda paths: remove(paths) or (paths and die())
""",
    "mounts": """
import dunnage.drivers.runc
bury = sys.modules["dunnage.drivers.runc.bury"]
unmount = bury.unmount_recursive
bury.unmount_recursive = lambda path: (unmount(path), die())
""",
}


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("removed", IN_A_SHIM)
@in_loop
async def test_a_shim_that_is_killed_half_way(
    tmp_path: Path, runtime: str, removed: str
) -> None:
    """Whatever it had removed without its runtime, `delete` removes the rest."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        shim.binary = altered(tmp_path, IN_A_SHIM[removed])
        await shim.up("c", ["sh", "-c", "exit 7"])
        created = await shim.call("c", "create")
        server = (await shim.call("c", "connect")).shim_pid
        await shim.call("c", "start")
        assert 7 == (await shim.call("c", "wait")).exit_status
        with pytest.raises(ConnectionBroken):
            await shim.call("c", "delete")
        await ended(server)
        shim.binary = OURS
        for _ in range(2):
            assert (created.pid, 7) == answer(shim.delete_action("c"))[:2]
            assert [] == shim.leftovers("c")


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("how", ["lived", "ended"])
@pytest.mark.parametrize("removed", IN_A_DELETE)
@in_loop
async def test_a_delete_that_is_killed_half_way(
    tmp_path: Path, runtime: str, how: str, removed: str
) -> None:
    """The same of what a `delete` has left that was killed: the next one ends well."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        script = "exit 7" if how == "ended" else "exec sleep 1000"
        await shim.up("c", ["sh", "-c", script])
        pid = (await shim.call("c", "create")).pid
        await shim.call("c", "start")
        if how == "ended":
            await shim.call("c", "wait")
        await shim.kill_shim("c")
        shim.binary = altered(tmp_path, IN_A_DELETE[removed])
        assert -signal.SIGKILL == shim.delete_action("c").returncode
        shim.binary = OURS
        status = {"ended": 7, "lived": 137}[how]
        for _ in range(2):
            assert (pid, status) == answer(shim.delete_action("c"))[:2]
            assert [] == shim.leftovers("c")


@pytest.mark.parametrize("missing", ["config.json", "runtime", "rootfs", "bundle"])
@in_loop
async def test_with_something_gone(tmp_path: Path, missing: str) -> None:
    """Whatever is missing of the bundle, also all of it, the container goes."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        # A root of its own: none that would have to be unmounted first.
        subprocess.run(["cp", "-a", shim.rootfs, shim.bundles / "c"], check=True)
        pid = (await shim.call("c", "create", rootfs=[])).pid
        await shim.call("c", "start")
        await shim.kill_shim("c")
        path = shim.bundles / "c" / ("" if missing == "bundle" else missing)
        path.rename(tmp_path / "moved")
        argv = shim.flags("c", "delete", bundle=str(shim.bundles / "c"))
        for _ in range(2):
            # Standing elsewhere: the flag tells where it is.
            done = subprocess.run(
                argv, cwd=tmp_path, env=shim.env, capture_output=True, check=False
            )
            assert 137 == answer(done).exit_status
        await ended(pid)
        if missing == "bundle":
            (tmp_path / "moved").rename(path)
            shim.delete_action("c")  # its socket, which only the bundle names
        assert [] == shim.leftovers("c")


@in_loop
async def test_from_a_directory_that_is_gone(tmp_path: Path) -> None:
    """Where the working directory was removed, -bundle tells."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", spec(["true"]))
        argv = shim.flags("c", "delete", bundle=str(shim.bundles / "c"))
        gone = tmp_path / "gone"
        gone.mkdir()
        script = 'rmdir "$PWD"; exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *argv],
            cwd=gone,
            env=shim.env,
            capture_output=True,
            check=False,
        )
        assert (0, 137) == answer(done)[:2]
