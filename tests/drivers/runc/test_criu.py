"""Checkpoints and restores by a runtime: what is called, noted, and left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from dunnage.drivers.contract import Checkpoint, Streams
from dunnage.errors import FailedPrecondition, NotFound, Unknown
from dunnage.host.procs import Children, Exited

from .fake_runtime import LIMIT_S, FakeRuntime, as_shim
from .test_container import heard, open_fds

ALL = Checkpoint(
    "/x",
    exit=True,
    open_tcp=True,
    external_unix_sockets=True,
    terminal=True,
    file_locks=True,
    empty_namespaces=("network", "uts"),
    cgroups_mode="full",
)
ALLOWED = (
    "--tcp-established --ext-unix-sk --shell-job --file-locks "
    "--manage-cgroups-mode=full --empty-ns=network --empty-ns=uts"
)


def of(wanted: Checkpoint, **changes: object) -> Checkpoint:
    """Return a checkpoint with other fields."""
    names = Checkpoint.__slots__
    return Checkpoint(**{name: getattr(wanted, name) for name in names} | changes)


@as_shim
async def test_a_checkpoint_and_its_restore(tmp_path: Path) -> None:
    """Each is one call; what the one was allowed the other is, by a note."""
    image = tmp_path / "deep" / "image"
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        await container.start()
        await container.checkpoint(Checkpoint(str(image)))
        assert [] == os.listdir(image)
        await container.checkpoint(of(ALL, path=str(image)))
        work = "--work-path BUNDLE/criu-work"
        first = f"checkpoint --image-path {image} --leave-running {work} c"
        second = f"checkpoint --image-path {image} {work} {ALLOWED} c"
        assert [first, second] == fake.calls()[2:]
        assert not (fake.bundle / "criu-work").exists()
        assert ["dunnage-checkpoint.json"] == os.listdir(image)
        await container.checkpoint(Checkpoint(str(image)))
        assert [] == os.listdir(image)
        await container.checkpoint(of(ALL, path=str(image)))
        await container.kill(signal.SIGKILL)
        await heard(container)
        await container.delete()
        await container.release()
        (tmp_path / "calls").unlink()
        (fake.bundle / "work").mkdir()
        container = await fake.create(checkpoint=str(image), criu_path="/criu")
        assert (0, []) == (container.pid, sorted(tmp_path.glob("calls")))
        await container.start()
        where = "--bundle BUNDLE --pid-file BUNDLE/init.pid --detach"
        work = f"--image-path {image} --work-path BUNDLE/work/criu-work {ALLOWED}"
        assert [f"--criu /criu restore {where} {work} c"] == fake.calls()
        assert int((fake.bundle / "init.pid").read_text()) == container.pid
        assert [] == os.listdir(fake.bundle / "work")
        await container.kill(signal.SIGTERM)
        assert isinstance(exited := await heard(container), Exited)
        assert 128 + signal.SIGTERM == exited.status
        await container.delete()
        await container.release()


@pytest.mark.parametrize("parent", ["HERE/p/parent", "../p/parent"])
@as_shim
async def test_a_parent_is_relative_to_the_image(tmp_path: Path, parent: str) -> None:
    """As criu's link to it is, and as runc insists."""
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        image = tmp_path / "image"
        parent = parent.replace("HERE", str(tmp_path))
        await container.checkpoint(Checkpoint(str(image), parent_path=parent))
        assert "--parent-path ../p/parent" in fake.calls()[-1]
        await container.delete()
        await heard(container)
        await container.release()


@as_shim
async def test_a_parent_is_found_at_the_restore(tmp_path: Path) -> None:
    """By criu's own link, or by one that is there for as long as that takes."""
    image, parent = tmp_path / "image", tmp_path / "parent"
    image.mkdir()
    parent.mkdir()
    link = image / "parent"
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.on("restore", 'readlink "$image/parent" >$here/link')
        for there in (None, "../parent"):
            if there:
                link.symlink_to(there)
            container = await fake.create(
                checkpoint=str(image), parent_checkpoint=str(parent)
            )
            await container.start()
            said = (tmp_path / "link").read_text().strip()
            assert (there or str(parent)) == said
            assert bool(there) == link.is_symlink()
            await container.kill(9)
            await heard(container)
            await container.delete()
            await container.release()
        container = await fake.create(
            checkpoint=str(image), parent_checkpoint=str(tmp_path)
        )
        with pytest.raises(FailedPrecondition, match=f"adds to {parent}, not to "):
            await container.start()
        await container.release()


@as_shim
async def test_a_failed_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    """Of the image nothing that was not there; what was frozen by it is thawed."""
    image, mine = tmp_path / "image", tmp_path / "mine"
    mine.mkdir()
    (mine / "old").write_text("x")
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        before = set(os.listdir(fake.bundle))
        script = ": >$image/pages; mkdir $image/more; echo 'Error 5' >$work/dump.log;"
        fake.on("checkpoint", f"{script} fail 'criu failed'")
        for path in (image, mine):
            with pytest.raises(Unknown) as caught:
                await container.checkpoint(of(ALL, path=str(path)))
            log = fake.bundle / "criu-dump.log"
            text = f"OCI runtime checkpoint failed: criu failed path= {log}: Error 5"
            assert text == str(caught.value)
            assert "Error 5\n" == log.read_text()
            assert "(no log) resume c" == fake.calls()[-1]
        assert not image.exists()
        assert ["old"] == os.listdir(mine)
        assert before | {"criu-dump.log"} <= set(os.listdir(fake.bundle))
        assert not (fake.bundle / "criu-work").exists()
        await container.pause()
        work = tmp_path / "work"
        with pytest.raises(Unknown, match="Error 5"):
            await container.checkpoint(of(ALL, path=str(image), work_path=str(work)))
        assert "(no log) resume c" != fake.calls()[-1]
        assert ["dump.log"] == os.listdir(work)
        fake.on("checkpoint", "")
        await container.checkpoint(of(ALL, path=str(image)))
        assert not (fake.bundle / "criu-dump.log").exists()
        await container.delete()
        await heard(container)
        await container.release()


@as_shim
async def test_a_failed_restore_leaves_nothing(tmp_path: Path) -> None:
    """Neither a state nor a descriptor; it may be tried again, or be deleted."""
    image = tmp_path / "image"
    image.mkdir()
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        os.mkfifo(tmp_path / "out")
        before = open_fds()
        container = await fake.create(
            Streams(stdout=str(tmp_path / "out")), checkpoint=str(image)
        )
        fake.on("restore", "mkdir -p $root/$id; echo Error >$work/restore.log; fail x")
        kept = fake.bundle / "criu-restore.log"
        for _ in range(2):
            with pytest.raises(Unknown) as caught:
                await container.start()
            text = f"OCI runtime restore failed: x path= {kept}: Error"
            assert text == str(caught.value)
            assert before == open_fds()
            assert not fake.state.exists()
        fake.on("restore", "")
        for text, why in [
            ("[]", "not a JSON object"),
            ("{", "dunnage-checkpoint.json: "),
            ('{"empty_namespaces": 1}', "is no list"),
        ]:
            (image / "dunnage-checkpoint.json").write_text(text)
            with pytest.raises(FailedPrecondition, match=why):
                await container.start()
        (image / "dunnage-checkpoint.json").unlink()
        image.rename(tmp_path / "away")
        with pytest.raises(NotFound, match=f"^checkpoint {image}: "):
            await container.start()
        (tmp_path / "calls").unlink()
        await container.delete()
        await container.release()
        assert not (tmp_path / "calls").exists()


@as_shim
async def test_what_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """Cancelled at the end of the shim: the half image goes, and what was half made."""
    image = tmp_path / "image"
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create()
        fake.on("checkpoint", ": >$image/pages; : >$here/at; exec sleep 1000")
        await _cancelled(tmp_path, container.checkpoint(Checkpoint(str(image))))
        assert not image.exists()
        await container.delete()
        await heard(container)
        await container.release()
        image.mkdir()
        container = await fake.create(checkpoint=str(image))
        fake.on("restore", "mkdir -p $root/$id; : >$here/at; exec sleep 1000")
        await _cancelled(tmp_path, container.start())
        assert not fake.state.exists()
        assert not (fake.bundle / "criu-work").exists()
        await container.release()


async def _cancelled(tmp_path: Path, work: object) -> None:
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    async with asyncio.timeout(LIMIT_S):
        while not (tmp_path / "at").exists():
            await asyncio.sleep(0.001)
    (tmp_path / "at").unlink()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("noted", [{"open_tcp": True}, {"open_tcp": 1, "x": "y"}, {}])
@as_shim
async def test_only_what_is_known_is_allowed(
    tmp_path: Path, noted: dict[str, object]
) -> None:
    """A note says which of the known flags its restore gets, and nothing else."""
    (tmp_path / "dunnage-checkpoint.json").write_text(json.dumps(noted))
    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        container = await fake.create(checkpoint=str(tmp_path))
        await container.start()
        flagged = "--tcp-established" in fake.calls()[0]
        assert flagged == (noted.get("open_tcp") is True)
        await container.kill(9)
        await heard(container)
        await container.delete()
        await container.release()
