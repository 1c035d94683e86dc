"""Checkpoints, and restores from them, by a real criu: what goes on, what is left."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dunnage.api import process_pb2, typeurl
from dunnage.api.runc_options_pb2 import CheckpointOptions
from dunnage.api.services import TASK_V3
from dunnage.errors import (
    ConnectionBroken,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
    Unknown,
)

from .harness import ROOT, Shim, cgroup_of, ended, in_loop, is_alive, spec, until
from .test_service import gated, refusal
from .test_terminal import Client, terminal_spec

PEER = Path(os.environ.get("DUNNAGE_PEERS", ROOT / ".peers")) / "criu"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PEER / "VERSION").exists(), reason=f"{PEER} is missing: run script/peers"
    ),
]
RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
COUNT = "i=0; while :; do i=$((i+1)); echo $i >/tmp/n; sleep 0.02; done"
"""Counts in a variable, so that only its own memory can go on with it."""
ECHO = "while read x; do n=$((n+1)); echo $n-$x; done; exit 3"
CREATED = process_pb2.CREATED
RUNNING = process_pb2.RUNNING
PAUSED = process_pb2.PAUSED


def with_criu(directory: Path, runtime: str) -> Shim:
    """Return a shim whose runtime finds criu; of crun, one that was built with it."""
    program = str(PEER / "bin/crun") if runtime == "crun" else runtime
    environment = {"PATH": f"{PEER}/bin:{os.environ['PATH']}", "RUNTIME": runtime}
    (directory / "s").mkdir()
    return Shim(directory / "s", runtime=program, environment=environment)


def options(**fields: Any) -> Any:
    """Return the packed options of a checkpoint."""
    return typeurl.pack(CheckpointOptions(**fields))


@pytest.fixture(autouse=True)
def no_cgroup_stays(tmp_path: Path) -> Iterator[None]:
    """Expect none in the unified hierarchy either, which may be hidden from us."""
    yield
    names = {cgroup_of(bundle) for bundle in tmp_path.glob("s/b/*/*")}
    look = "mount -t cgroup2 none /mnt && ls /mnt"
    argv = ["unshare", "-m", "sh", "-c", look]
    said = subprocess.run(argv, capture_output=True, check=False).stdout
    assert not names & set(said.decode().split())


def configured(shim: Shim, config: dict[str, Any]) -> dict[str, Any]:
    """Have runc's criu leave cgroups to the runtime; crun has an option for it.

    Where the unified hierarchy is hidden, as crun needs it beside v1, containers are in
    its root: criu would write all that is in there, and make it anew in a restore.
    """
    file = shim.directory / "criu.conf"
    file.write_text("manage-cgroups ignore\n")
    return config | {"annotations": {"org.criu.config": str(file)}}


def sh(script: str) -> dict[str, Any]:
    """Return the spec of a shell."""
    return spec(["sh", "-c", script])


async def begun(shim: Shim, config: dict[str, Any], **fields: Any) -> int:
    """Run a container ``c``; return the pid of its init."""
    await shim.up("c", config=configured(shim, config))
    await shim.call("c", "create", **fields)
    return int((await shim.call("c", "start")).pid)


async def write(shim: Shim, image: Path, **fields: Any) -> None:
    """Checkpoint ``c``."""
    if shim.environment["RUNTIME"] == "crun":
        fields["cgroups_mode"] = "ignore"
    await shim.call("c", "checkpoint", path=str(image), options=options(**fields))


async def stopped(shim: Shim, image: Path, **fields: Any) -> None:
    """Checkpoint ``c``, which ends by it, and delete it."""
    await write(shim, image, exit=True, **fields)
    assert 137 == (await shim.call("c", "wait")).exit_status
    await shim.call("c", "delete")


async def killed(shim: Shim) -> None:
    """End ``c``, and expect nothing left of it."""
    await shim.call("c", "kill", signal=9)
    assert 137 == (await shim.call("c", "wait")).exit_status
    await shim.call("c", "delete")
    await shim.call("c", "shutdown")
    assert [] == await shim.gone("c")


async def further(count: Callable[[], int]) -> None:
    """Wait until a counter has gone on from where it is."""
    seen = count()
    await until(lambda: count() > seen)


def counter(shim: Shim) -> Callable[[], int]:
    """Return what tells how far `COUNT` has come."""
    file = shim.rootfs / "tmp/n"
    return lambda: int(file.read_text().strip() or 0) if file.exists() else 0


@RUNTIMES
@in_loop
async def test_a_container_goes_on(tmp_path: Path, runtime: str) -> None:
    """A checkpoint without exit is said, and changes nothing else."""
    async with with_criu(tmp_path, runtime) as shim:
        pid = await begun(shim, sh(COUNT))
        count = counter(shim)
        await until(lambda: count() > 2)
        before = set(os.listdir(shim.bundles / "c"))
        for name in ("one", "two"):
            image = tmp_path / name
            await write(shim, image)
            await shim.wait_for_event("TaskCheckpointed", checkpoint=str(image))
            assert (image / "inventory.img").exists()
            state = await shim.call("c", "state")
            assert (RUNNING, pid) == (state.status, state.pid)
            await further(count)
        assert before == set(os.listdir(shim.bundles / "c"))
        await shim.exec("c", "e", ["sh", "-c", "exit 4"])
        await shim.call("c", "start", exec_id="e")
        assert 4 == (await shim.call("c", "wait", exec_id="e")).exit_status
        await killed(shim)
        said = ["Create", "Start", "Checkpointed", "Checkpointed", "ExecAdded"]
        assert said == shim.kinds()[:5]


@RUNTIMES
@in_loop
async def test_ended_and_restored(tmp_path: Path, runtime: str) -> None:
    """What a checkpoint has ended goes on elsewhere, as any container does."""
    image = tmp_path / "image"
    async with with_criu(tmp_path, runtime) as shim:
        config = sh(COUNT)
        first = await begun(shim, config)
        count = counter(shim)
        await until(lambda: count() > 2)
        await stopped(shim, image)
        said = ["Create", "Start", "Checkpointed", "Exit", "Delete"]
        await until(lambda: said == shim.kinds())
        seen = count()
        await shim.up("d", config=configured(shim, config))
        assert 0 == (await shim.call("d", "create", checkpoint=str(image))).pid
        created = await shim.wait_for_event("TaskCreate", container_id="d")
        assert (0, str(image)) == (created.pid, created.checkpoint)
        state = await shim.call("d", "state", methods=TASK_V3)
        assert (CREATED, 0) == (state.status, state.pid)
        async with refusal(Unknown, "^cannot exec in a created state$"):
            await shim.exec("d", "e", ["true"])
        async with refusal(Unknown, "^cannot checkpoint a task in created state$"):
            await shim.call("d", "checkpoint", path=str(tmp_path / "x"))
        waiting = asyncio.create_task(shim.call("d", "wait"))
        pid = (await shim.call("d", "start", methods=TASK_V3)).pid
        assert first != pid
        assert is_alive(pid)
        await shim.wait_for_event("TaskStart", container_id="d", pid=pid)
        await until(lambda: count() > seen)
        async with refusal(Unknown, "^cannot start a running process$"):
            await shim.call("d", "start")
        await shim.exec("d", "e", ["sleep", "1000"])
        await shim.call("d", "start", exec_id="e")
        processes = (await shim.call("d", "pids")).processes
        assert {pid} < {p.pid for p in processes}
        # The Go shim, since 2.2, knows no cgroup of what was restored.
        assert (await shim.call("d", "stats")).stats.value
        await shim.call("d", "pause")
        assert PAUSED == (await shim.call("d", "state")).status
        await shim.call("d", "resume")
        await shim.call("d", "kill", signal=9)
        assert 137 == (await waiting).exit_status
        assert pid == (await shim.call("d", "delete")).pid
        kinds = ["Create", "Start", "ExecAdded", "ExecStarted", "Paused", "Resumed"]
        kinds += ["Exit e", "Exit", "Delete e", "Delete"]
        await until(lambda: kinds == shim.kinds("d"))
        for id_ in ("c", "d"):
            await shim.call(id_, "shutdown")
        for id_ in ("c", "d"):
            assert [] == await shim.gone(id_)


@RUNTIMES
@pytest.mark.parametrize("terminal", [False, True])
@in_loop
async def test_streams(tmp_path: Path, runtime: str, *, terminal: bool) -> None:
    """What was restored reads and writes the streams that it is given now."""
    config = terminal_spec(["sh", "-c", ECHO]) if terminal else sh(ECHO)
    async with with_criu(tmp_path, runtime) as shim:
        one, two = Client(tmp_path, "one"), Client(tmp_path, "two")
        one.attach()
        two.attach()
        try:
            fields = {"terminal": terminal, "checkpoint": str(tmp_path / "image")}
            first = one.fields | fields | {"checkpoint": ""}
            await begun(shim, config, **first)
            one.type(b"a\n")
            await one.expect(b"1-a")
            await stopped(shim, tmp_path / "image")
            await shim.call("c", "create", **two.fields | fields)
            await shim.call("c", "start")
            if terminal:
                await shim.call("c", "resize_pty", width=70, height=20)
            two.type(b"b\n")
            await two.expect(b"2-b")
            two.detach()
            await shim.call("c", "close_io", stdin=True)
            status = (await shim.call("c", "wait")).exit_status
            assert 3 == status
            await shim.call("c", "delete")
            await shim.call("c", "shutdown")
            assert [] == await shim.gone("c")
        finally:
            one.detach()
            two.detach()


@RUNTIMES
@pytest.mark.parametrize("had", [False, True])
@in_loop
async def test_streams_come_and_go(tmp_path: Path, runtime: str, *, had: bool) -> None:
    """Who had streams is restored without any, and the other way round."""
    async with with_criu(tmp_path, runtime) as shim:
        client = Client(tmp_path, "c")
        client.attach()
        try:
            given = client.fields | {"terminal": False}
            await begun(shim, sh(f"echo; {COUNT}"), **(given if had else {}))
            count = counter(shim)
            await until(lambda: count() > 2)
            await stopped(shim, tmp_path / "image")
            client.read()
            seen = count()
            fields = {} if had else given
            await shim.call("c", "create", checkpoint=str(tmp_path / "image"), **fields)
            await shim.call("c", "start")
            await until(lambda: count() > seen)
            await killed(shim)
        finally:
            client.detach()


@RUNTIMES
@in_loop
async def test_a_paused_container(tmp_path: Path, runtime: str) -> None:
    """It is written frozen, as clients do it, and frozen it stays."""
    async with with_criu(tmp_path, runtime) as shim:
        await begun(shim, sh(COUNT))
        count = counter(shim)
        await until(lambda: count() > 2)
        await shim.call("c", "pause")
        await write(shim, tmp_path / "image")
        assert PAUSED == (await shim.call("c", "state")).status
        seen = count()
        await shim.call("c", "pids")
        assert seen == count()
        await shim.call("c", "resume")
        await until(lambda: count() > seen)
        await shim.call("c", "pause")
        await stopped(shim, tmp_path / "other")
        seen = count()
        await shim.call("c", "create", checkpoint=str(tmp_path / "other"))
        await shim.call("c", "start")
        assert RUNNING == (await shim.call("c", "state")).status
        await until(lambda: count() > seen)
        await killed(shim)


def bring_flock(rootfs: Path) -> None:
    """Put flock(1), which busybox may lack, into a root filesystem."""
    program = shutil.which("flock")
    assert program, "flock is missing: apt-get install util-linux"
    said = subprocess.run(["ldd", program], capture_output=True, check=True).stdout
    for path in (program, *re.findall(r"/\S+", said.decode())):
        (rootfs / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, rootfs / path[1:])


@RUNTIMES
@in_loop
async def test_a_failed_checkpoint(tmp_path: Path, runtime: str) -> None:
    """Criu's own words are in the answer; the container goes on, nothing else stays."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("x")
    async with with_criu(tmp_path, runtime) as shim:
        bring_flock(shim.rootfs)
        script = f"exec 9>/tmp/lock; {shutil.which('flock')} 9 && {COUNT}"
        pid = await begun(shim, sh(script))
        count = counter(shim)
        await until(lambda: count() > 2)
        bundle = shim.bundles / "c"
        before = set(os.listdir(bundle))
        for image in (tmp_path / "deep/image", full):
            text = f"checkpoint failed: .* path= {bundle}/criu-dump.log: .*file locks"
            async with refusal(Unknown, text):
                await write(shim, image, exit=True)
        assert not (tmp_path / "deep/image").exists()
        assert ["mine"] == os.listdir(full)
        assert before | {"criu-dump.log"} == set(os.listdir(bundle))
        seen = count()
        await until(lambda: count() > seen)
        assert RUNNING == (await shim.call("c", "state")).status
        assert is_alive(pid)
        assert ["Create", "Start"] == shim.kinds()
        work = tmp_path / "work"
        await stopped(shim, full, file_locks=True, work_path=str(work))
        assert (work / "dump.log").exists()
        assert not (bundle / "criu-dump.log").exists()
        seen = count()
        await shim.call("c", "create", checkpoint=str(full))
        await shim.call("c", "start")
        await until(lambda: count() > seen)
        await killed(shim)


@RUNTIMES
@in_loop
async def test_a_failed_restore(tmp_path: Path, runtime: str) -> None:
    """It leaves nothing running, and may be tried again, or be deleted."""
    image = tmp_path / "image"
    async with with_criu(tmp_path, runtime) as shim:
        await begun(shim, sh(COUNT))
        count = counter(shim)
        await until(lambda: count() > 2)
        await stopped(shim, image)
        seen = count()
        await shim.call("c", "create", checkpoint=str(image))
        bundle = shim.bundles / "c"
        pages = image / "pages-1.img"
        pages.rename(tmp_path / "away")
        text = f"^OCI runtime restore failed: .* path= {bundle}/criu-restore.log: Error"
        for _ in range(2):
            async with refusal(Unknown, text):
                await shim.call("c", "start")
            state = await shim.call("c", "state")
            assert (CREATED, 0) == (state.status, state.pid)
            assert not Path(f"/run/containerd/runc/{shim.namespace}/c").exists()
        assert seen == count()
        (tmp_path / "away").rename(pages)
        await shim.call("c", "start")
        await until(lambda: count() > seen)
        assert not (bundle / "criu-restore.log").exists()
        await shim.call("c", "kill", signal=9)
        await shim.call("c", "wait")
        await shim.call("c", "delete")
        shutil.rmtree(image)
        await shim.call("c", "create", checkpoint=str(image))
        async with refusal(NotFound, f"^checkpoint {image}: no such directory$"):
            await shim.call("c", "start")
        deleted = await shim.call("c", "delete")
        assert (0, 0) == (deleted.pid, deleted.exit_status)
        await until(lambda: ["Create", "Delete"] == shim.kinds()[-2:])
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")


@RUNTIMES
@in_loop
async def test_open_connections(tmp_path: Path, runtime: str) -> None:
    """What a checkpoint was allowed its restore is allowed, too, by a note."""
    image = tmp_path / "image"
    config = sh(
        "ifconfig lo 127.0.0.1 up; sleep 1000 | nc -l -p 9999 >/tmp/lines & "
        "while :; do echo; sleep 0.02; done | "
        "until nc 127.0.0.1 9999; do sleep 0.1; done"
    )
    sets = ("bounding", "effective", "permitted")
    config["process"]["capabilities"] = {each: ["CAP_NET_ADMIN"] for each in sets}
    async with with_criu(tmp_path, runtime) as shim:
        await begun(shim, config)
        lines = shim.rootfs / "tmp/lines"
        await until(lambda: lines.exists() and lines.stat().st_size > 2)
        async with refusal(Unknown, "onnected TCP socket"):
            await write(shim, image)
        try:
            await stopped(shim, image, open_tcp=True)
        except Unknown as error:
            if "Can't get 1:34 opt" not in str(error):
                raise
            await killed(shim)
            pytest.skip("criu 4.1 asks a TCP socket for SO_PASSSEC: not since 6.16")
        seen = lines.stat().st_size
        note = image / "dunnage-checkpoint.json"
        note.rename(tmp_path / "note")
        await shim.call("c", "create", checkpoint=str(image))
        async with refusal(Unknown, "onnected TCP socket"):
            await shim.call("c", "start")
        (tmp_path / "note").rename(note)
        await shim.call("c", "start")
        await until(lambda: lines.stat().st_size > seen)
        await killed(shim)


@in_loop
async def test_an_empty_network(tmp_path: Path) -> None:
    """A namespace whose content is left out is made anew at the restore."""
    image = tmp_path / "image"
    async with with_criu(tmp_path, "runc") as shim:
        await begun(shim, sh(COUNT))
        count = counter(shim)
        await until(lambda: count() > 2)
        await stopped(shim, image, empty_namespaces=["network"], cgroups_mode="soft")
        assert not list(image.glob("netdev*"))
        seen = count()
        await shim.call("c", "create", checkpoint=str(image))
        await shim.call("c", "start")
        await until(lambda: count() > seen)
        await killed(shim)


@in_loop
async def test_crun_knows_no_empty_namespaces(tmp_path: Path) -> None:
    """What the runtime does not offer is answered so, and not left out."""
    async with with_criu(tmp_path, "crun") as shim:
        await begun(shim, spec(["sleep", "1000"]))
        packed = options(empty_namespaces=["network"])
        async with refusal(Unimplemented, "--empty-ns"):
            await shim.call("c", "checkpoint", path="/tmp/x", options=packed)
        await killed(shim)


@pytest.mark.parametrize(
    ("runtime", "kind", "text"),
    [
        ("runc", FailedPrecondition, "criu.*executable file not found"),
        ("crun", Unimplemented, "unknown command checkpoint"),
    ],
)
@in_loop
async def test_without_criu(tmp_path: Path, runtime: str, kind: Any, text: str) -> None:
    """A machine without criu says so, and a crun that was built without it."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        pid = await begun(shim, spec(["sleep", "1000"]))
        image = tmp_path / "image"
        async with refusal(kind, text):
            await shim.call("c", "checkpoint", path=str(image))
        assert not image.exists()
        assert is_alive(pid)
        await killed(shim)


@in_loop
async def test_nonsense_is_refused(tmp_path: Path) -> None:
    """Paths that are none, and options of an unknown type."""
    async with with_criu(tmp_path, "runc") as shim:
        await begun(shim, spec(["sleep", "1000"]))
        for path in ("", "image", "/a\0b"):
            async with refusal(InvalidArgument, "^path of a checkpoint "):
                await shim.call("c", "checkpoint", path=path)
        async with refusal(InvalidArgument, "^work path "):
            await shim.call(
                "c", "checkpoint", path="/x", options=options(work_path="work")
            )
        packed = {"type_url": "some.Options", "value": b"x"}
        async with refusal(NotFound, "^type with url some.Options$"):
            await shim.call("c", "checkpoint", path="/x", options=packed)
        assert ["Create", "Start"] == shim.kinds()
        await killed(shim)


@RUNTIMES
@pytest.mark.parametrize("command", ["checkpoint", "restore"])
@in_loop
async def test_a_shim_that_dies_meanwhile(
    tmp_path: Path, runtime: str, command: str
) -> None:
    """Its delete leaves nothing, whether the container was written or restored."""
    image = tmp_path / "image"
    async with with_criu(tmp_path, runtime) as shim:
        with gated(shim, command) as gate:
            pid = await begun(shim, sh(COUNT))
            doing = write(shim, image)
            if command == "restore":
                doing.close()
                await stopped(shim, image)
                await shim.call("c", "create", checkpoint=str(image))
                doing = shim.call("c", "start")
            busy = asyncio.create_task(doing)
            await gate.reached()
            await shim.kill_shim("c")
            async with refusal(ConnectionBroken, ""):
                await busy
        assert 0 == shim.delete_action("c").returncode
        await ended(pid)
        assert [] == await shim.gone("c")


@RUNTIMES
@in_loop
async def test_a_shim_that_dies_later(tmp_path: Path, runtime: str) -> None:
    """What was restored is buried like any other container."""
    image = tmp_path / "image"
    async with with_criu(tmp_path, runtime) as shim:
        await begun(shim, sh(COUNT))
        await stopped(shim, image)
        await shim.call("c", "create", checkpoint=str(image))
        pid = (await shim.call("c", "start")).pid
        await shim.kill_shim("c")
        assert 0 == shim.delete_action("c").returncode
        await ended(pid)
        assert [] == await shim.gone("c")
