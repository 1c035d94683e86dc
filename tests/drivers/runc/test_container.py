"""Containers and execs by a runtime: what is called, kept, and left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from dunnage.drivers.contract import Happening, Process, Streams
from dunnage.drivers.runc import Options
from dunnage.errors import (
    DunnageError,
    FailedPrecondition,
    NotFound,
    Unknown,
)
from dunnage.host.cgroups import paths
from dunnage.host.procs import Children, Exited

from .fake_runtime import LIMIT_S, FakeRuntime, as_shim

SPEC = json.dumps({"args": ["x"], "terminal": True, "env": ["SECRET=1"]}).encode()


async def heard(process: Process) -> Happening:
    """Wait for what happens to a process."""
    future: asyncio.Future[Happening] = asyncio.get_running_loop().create_future()
    process.listen(future.set_result)
    async with asyncio.timeout(LIMIT_S):
        return await future


def open_fds() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


@as_shim
async def test_a_life(tmp_path: Path) -> None:
    """Each step is one call of the runtime; the exit is init's own."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        before = open_fds()
        container = await fake.create()
        assert int((fake.bundle / "init.pid").read_text()) == container.pid
        await container.start()
        assert [7, 8] == await container.pids()
        await container.kill(0)
        await container.kill(signal.SIGTERM, everything=True)
        assert isinstance(exited := await heard(container), Exited)
        assert 128 + signal.SIGTERM == exited.status
        # Who listens late hears of it as well, at once.
        late: list[Happening] = []
        container.listen(late.append)
        assert [exited] == late
        with pytest.raises(NotFound, match=r"^process already finished$"):
            await container.kill(9)
        await container.delete()
        await container.release()
        assert before == open_fds()
        create = "create --bundle BUNDLE --pid-file BUNDLE/init.pid c"
        # What may run beside another call leaves that one's log alone.
        beside = ["ps --format json c", "kill c 0", "kill --all c 15", "kill c 9"]
        beside = [f"(no log) {call}" for call in beside]
        expected = [create, "start c", *beside, "delete c"]
        assert expected == fake.calls()


@as_shim
async def test_what_is_frozen_and_killed_is_thawed(tmp_path: Path) -> None:
    """A SIGKILL of a frozen container thaws it, and so does a pause after a SIGKILL."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        await container.pause()
        await container.kill(signal.SIGSTOP)
        await container.resume()
        await container.pause()
        await container.kill(signal.SIGKILL)
        await container.pause()
        calls = ["pause c", "(no log) kill c 19", "resume c", "pause c"]
        calls += ["(no log) kill c 9", "(no log) resume c"]
        assert [*calls, "pause c", "(no log) resume c"] == fake.calls()[1:]
        fake.on("resume", "fail 'not paused'")
        with pytest.raises(Unknown, match=r"^OCI runtime resume failed: not paused$"):
            await container.resume()
        await container.pause()
        fake.on("pause", "fail 'no freezer'")
        with pytest.raises(Unknown, match=r"^OCI runtime pause failed: no freezer$"):
            await container.pause()
        await container.delete()
        await container.release()


@pytest.fixture
def booted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory by which systemd is known to run."""
    path = tmp_path / "systemd"
    path.mkdir()
    monkeypatch.setattr(paths, "_BOOTED", str(path))
    return path


@pytest.mark.usefixtures("booted")
@as_shim
async def test_options_reach_the_command_line(tmp_path: Path) -> None:
    """And the bundle, for whoever has to bury the container."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create(
            no_pivot_root=True,
            no_new_keyring=True,
            systemd_cgroup=True,
            criu_path="/criu",
        )
        files = "--bundle BUNDLE --pid-file BUNDLE/init.pid"
        expected = f"create {files} --no-pivot --no-new-keyring c"
        assert [f"--systemd-cgroup {expected}"] == fake.calls()
        assert json.loads((fake.bundle / "options.json").read_text()) == {
            "binary_name": str(fake.program),
            "root": str(fake.root),
            "no_pivot_root": True,
            "no_new_keyring": True,
            "systemd_cgroup": True,
            "criu_path": "/criu",
        }
        await container.delete()
        assert isinstance(exited := await heard(container), Exited)
        assert 137 == exited.status  # it was created, and is killed


@as_shim
async def test_the_spec_chooses_systemd(tmp_path: Path, booted: Path) -> None:
    """Options that are silent: then its path does; and so does `delete` later."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        path = {"linux": {"cgroupsPath": "system.slice:dunnage:c"}}
        (fake.bundle / "config.json").write_text(json.dumps(path))
        container = await fake.create()
        (call,) = fake.calls()
        assert call.startswith("--systemd-cgroup create ")
        assert Options.read(str(fake.bundle)).systemd_cgroup
        await container.delete()
        await heard(container)
        booted.rmdir()
        with pytest.raises(FailedPrecondition, match="does not run here, there is no"):
            await fake.create()


@as_shim
async def test_systemd_is_refused_where_it_does_not_run(
    tmp_path: Path, booted: Path
) -> None:
    """Before anything is made or called."""
    booted.rmdir()
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        before = sorted(fake.bundle.iterdir())
        with pytest.raises(FailedPrecondition, match=f"there is no {booted}$"):
            await fake.create(systemd_cgroup=True)
        assert not (tmp_path / "calls").exists()
        assert before == sorted(fake.bundle.iterdir())


@as_shim
async def test_the_streams_are_those_of_the_process(tmp_path: Path) -> None:
    """Init has the runtime's own streams; they belong to whom the options say."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.on("create", "echo out; echo err >&2; stat -Lc %u:%g /dev/stdout >&2")
        for name in ("out", "err"):
            os.mkfifo(tmp_path / name)
        readers = [
            os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK)
            for name in ("out", "err")
        ]
        streams = Streams("", str(tmp_path / "out"), str(tmp_path / "err"))
        container = await fake.create(streams, io_uid=5, io_gid=6)
        await container.drained(LIMIT_S)
        said = [os.read(fd, 100) for fd in readers]
        assert [b"out\n", b"err\n5:6\n"] == said
        await container.delete()
        await heard(container)
        await container.release()


@pytest.mark.parametrize(
    ("given", "owner"),
    [({}, "7:8"), ({"io_uid": 5}, "5:0"), ({"io_gid": 6}, "0:6")],
)
@as_shim
async def test_without_options_the_spec_names_the_owner(
    tmp_path: Path, given: dict[str, Any], owner: str
) -> None:
    """Who is root in its user namespace; also of an exec, and not in options.json."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        mapped = [[{"containerID": 0, "hostID": host, "size": 1}] for host in (7, 8)]
        linux = {"uidMappings": mapped[0], "gidMappings": mapped[1]}
        (fake.bundle / "config.json").write_text(json.dumps({"linux": linux}))
        for command in ("create", "exec"):
            fake.on(command, "stat -Lc %u:%g /dev/stdout >&2")
        out, err = (f"file://{tmp_path}/{name}" for name in ("out", "err"))
        container = await fake.create(Streams("", out, err), **given)
        process = container.add_exec("e", SPEC, Streams("", out, err))
        await process.start()
        for each in (container, process):
            await each.kill(9)
            await heard(each)
            await each.drained(LIMIT_S)
        assert f"{owner}\n" * 2 == (tmp_path / "err").read_text()
        written = json.loads((fake.bundle / "options.json").read_text())
        assert given == {k: v for k, v in written.items() if k.startswith("io_")}
        for each in (process, container):
            await each.delete()
            await each.release()


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("fail 'no luck'", "^OCI runtime create failed: no luck$"),
        ("exit 0", "^OCI runtime create failed: the runtime left no pid: "),
        ("mkdir -p $root/$id; exit 0", "the runtime left no pid: "),
        ("mkdir -p $root/$id; printf x >$pid_file; exit 0", "left no pid: "),
    ],
)
@as_shim
async def test_a_failed_create_leaves_nothing(
    tmp_path: Path, script: str, text: str
) -> None:
    """Neither the runtime's state, when it has left one, nor a descriptor."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.on("create", script)
        before = open_fds()
        os.mkfifo(tmp_path / "out")
        with pytest.raises(Unknown, match=text):
            await fake.create(Streams(stdout=str(tmp_path / "out")))
        assert before == open_fds()
        assert not fake.state.exists()
        assert ("mkdir" in script) == ("(no log) delete --force c" in fake.calls())


@as_shim
async def test_a_failed_create_spares_what_was_there(tmp_path: Path) -> None:
    """A container of that id that was there before is somebody else's."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.state.mkdir(parents=True)
        fake.on("create", "fail 'container with given ID already exists'")
        with pytest.raises(Unknown, match="already exists"):
            await fake.create()
        assert fake.state.exists()
        assert 1 == len(fake.calls())


@as_shim
async def test_a_create_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """Cancelled at the end of the shim: the runtime is killed, its state removed."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.on("create", "mkdir -p $root/$id; exec sleep 1000")
        task = asyncio.create_task(fake.create())
        async with asyncio.timeout(LIMIT_S):
            while not fake.state.exists():
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not fake.state.exists()


@as_shim
async def test_failures_have_the_runtime_s_words(tmp_path: Path) -> None:
    """Of start and delete from the log, of the others from stderr."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        fake.on("start", "fail 'no start'")
        with pytest.raises(Unknown, match=r"^OCI runtime start failed: no start$"):
            await container.start()
        fake.on("delete", "fail 'no delete'")
        with pytest.raises(Unknown, match=r"^failed to delete task: no delete$"):
            await container.delete()
        fake.on("ps", "echo no ps >&2; exit 2")
        with pytest.raises(Unknown, match=r"(?s)exit status 2: no ps"):
            await container.pids()
        fake.on("kill", "echo no kill >&2; exit 2")
        with pytest.raises(Unknown, match=r"(?s)^unknown error after kill: .*no kill"):
            await container.kill(9)
        fake.on("kill", "")
        # It can be deleted again; and if the runtime knows it no more, it is deleted.
        fake.on("delete", "fail 'container does not exist'")
        await container.delete()
        await container.kill(9)
        await heard(container)


@as_shim
async def test_any_words_for_a_process_that_has_finished(tmp_path: Path) -> None:
    """A runtime that says it in its own way, when the process is gone: it is gone."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        quietly = "kill -9 $(cat $root/$id/pid) 2>/dev/null"
        fake.on("kill", f"{quietly}; echo it was Stopped >&2; exit 1")
        exited = asyncio.ensure_future(heard(container))
        while not exited.done():
            with contextlib.suppress(DunnageError):
                await container.kill(15)
        with pytest.raises(NotFound, match=r"^process already finished$"):
            await container.kill(15)
        # Of all there is, others may live: their runtime's words count.
        with pytest.raises(Unknown, match="it was Stopped"):
            await container.kill(9, everything=True)
        await container.delete()


@as_shim
async def test_no_list_of_pids_is_an_empty_one(tmp_path: Path) -> None:
    """Where nobody is left, runc says null."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        fake.on("ps", "echo null; exit")
        assert [] == await container.pids()
        await container.delete()


@as_shim
async def test_the_life_of_an_exec(tmp_path: Path) -> None:
    """It runs what it was given, which nobody else can read and which does not stay."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        init_pid = container.pid
        # It may be called as init's own files are.
        process = container.add_exec("init", SPEC, Streams())
        assert 0 == process.pid
        with pytest.raises(FailedPrecondition, match=r"^process not created$"):
            await process.kill(9)
        fake.on("exec", f"cp -p {fake.bundle}/*.process.json {tmp_path}/seen")
        await process.start()
        seen = tmp_path / "seen"
        assert {**json.loads(SPEC), "terminal": False} == json.loads(seen.read_text())
        assert 0o600 == stat.S_IMODE(seen.stat().st_mode)
        assert not list(fake.bundle.glob("*.process.json"))
        assert process.pid not in {0, init_pid}
        assert str(init_pid) == (fake.bundle / "init.pid").read_text()
        assert "exec --process BUNDLE/" in fake.calls()[-1]
        await process.kill(signal.SIGTERM, everything=True)
        assert isinstance(exited := await heard(process), Exited)
        assert 128 + signal.SIGTERM == exited.status
        with pytest.raises(NotFound, match=r"^process already finished$"):
            await process.kill(9)
        await process.delete()
        await process.delete()
        await process.release()
        left = {"init.pid", "options.json", "runtime", "dunnage-traces.json"}
        assert left == {p.name for p in fake.bundle.iterdir()}
        await container.delete()


@as_shim
async def test_a_failed_exec_leaves_nothing(tmp_path: Path) -> None:
    """Nor does one that is given up: a process that the runtime had made is killed."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        before = open_fds()
        os.mkfifo(tmp_path / "out")
        streams = Streams(stdout=str(tmp_path / "out"))
        process = container.add_exec("e", SPEC, streams)
        fake.on("exec", "fail 'no exec'")
        with pytest.raises(Unknown, match=r"^OCI runtime exec failed: no exec$"):
            await process.start()
        await process.delete()
        assert before == open_fds()
        process = container.add_exec("f", SPEC, streams)
        made = tmp_path / "made"
        fake.on(
            "exec",
            "sleep 1000 & printf %s $! >$pid_file;"
            f"printf %s $! >{made}.new; mv {made}.new {made}; exec sleep 1000",
        )
        task = asyncio.create_task(process.start())
        async with asyncio.timeout(LIMIT_S):
            while not made.exists():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while Path(f"/proc/{made.read_text()}").exists():
                await asyncio.sleep(0.001)
        assert before == open_fds()
        await process.delete()
        left = {"init.pid", "options.json", "runtime", "dunnage-traces.json"}
        assert left == {p.name for p in fake.bundle.iterdir()}
        await container.delete()


@pytest.mark.parametrize("spec", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
@as_shim
async def test_an_exec_of_nonsense_is_refused(tmp_path: Path, spec: bytes) -> None:
    """Before anything is written or run."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        with pytest.raises(DunnageError, match=r"^spec of exec e: "):
            container.add_exec("e", spec, Streams())
        await container.delete()


@as_shim
async def test_a_terminal_that_is_never_sent(tmp_path: Path) -> None:
    """The runtime is told where to send it; if it does not, all is undone."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        with pytest.raises(DunnageError, match=r"master: the runtime has sent none$"):
            await fake.create(Streams(terminal=True))
        assert " --console-socket /proc/" in fake.calls()[0]
        assert [] == list(fake.bundle.glob("console-*"))
        assert not fake.state.exists()
