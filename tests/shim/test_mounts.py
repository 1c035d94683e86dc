"""Root filesystems of every kind under real runtimes, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dunnage.errors import DunnageError

from .harness import Shim, fifo_reader, in_loop, spec, until

pytestmark = pytest.mark.slow

runtimes = pytest.mark.parametrize("runtime", ["runc", "crun"])
MANY = 250
MAPPING = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
MAPS = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"]


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory that everybody may pass through."""
    with tempfile.TemporaryDirectory(prefix="dn-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def mounts_in(directory: Path) -> list[str]:
    """Return where something is mounted in a directory."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return [point for point in points if point.startswith(f"{directory}/")]


def overlay(shim: Shim, id_: str, count: int, *more: str) -> dict[str, Any]:
    """Make layers over busybox, and a place for what is written."""
    snapshots = shim.directory / "snapshots"
    lower = [snapshots / f"{number}/fs" for number in range(count)]
    for number, path in enumerate(lower):
        path.mkdir(parents=True, exist_ok=True)
        (path / f"layer{number}").touch()
    own = snapshots / id_
    for name in ("fs", "work"):
        (own / name).mkdir(parents=True)
    base = snapshots / "base"
    if not base.exists():
        shutil.copytree(shim.rootfs, base, symlinks=True)
        os.chown(base / "bin/busybox", 7, 8)
    names = ":".join(map(str, [*lower, base]))
    options = [f"lowerdir={names}", f"upperdir={own}/fs", f"workdir={own}/work"]
    return {"type": "overlay", "source": "overlay", "options": [*options, *more]}


async def life(shim: Shim, id_: str, rootfs: list[dict[str, Any]]) -> bytes:
    """Lead a container's life on a root; return what it has said."""
    path = shim.directory / f"out-{id_}"
    async with fifo_reader(path) as said:
        await shim.call(id_, "create", rootfs=rootfs, stdout=str(path))
        await shim.call(id_, "start")
        assert 0 == (await shim.call(id_, "wait")).exit_status
        await shim.call(id_, "delete")
        return await said


@runtimes
@in_loop
async def test_an_overlay_of_very_many_layers(place: Path, runtime: str) -> None:
    """A container sees them all; and `delete` unmounts what a dead shim has left."""
    script = "ls -d /layer* | wc -l; echo x >/layer7"
    async with Shim(place, runtime=runtime) as shim:
        await shim.up("c", ["sh", "-c", script])
        assert b"250" == (await life(shim, "c", [overlay(shim, "c", MANY)])).strip()
        assert "x\n" == (place / "snapshots/c/fs/layer7").read_text()
        assert [] == mounts_in(place)
        await shim.up("d", ["sleep", "1000"])
        await shim.call("d", "create", rootfs=[overlay(shim, "d", MANY)])
        assert [str(shim.bundles / "d/rootfs")] == mounts_in(place)
        await shim.kill_shim("d")
        assert 0 == shim.delete_action("d").returncode
        assert [] == mounts_in(place)


@runtimes
@in_loop
async def test_a_file_by_loop(place: Path, runtime: str) -> None:
    """A root in a file; afterwards neither a mount nor a device is left."""
    async with Shim(place, runtime=runtime) as shim:
        image = place / "image"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        argv = ["mkfs.ext4", "-q", "-d", str(shim.rootfs), str(image)]
        subprocess.run(argv, check=True)
        await shim.up("c", ["sh", "-c", "echo kept >/file"])
        mount = {"type": "ext4", "source": str(image), "options": ["loop"]}
        await life(shim, "c", [mount])
        await shim.up("d", ["cat", "/file"])
        mount["options"] = ["loop", "ro"]
        assert b"kept\n" == await life(shim, "d", [mount])
        assert [] == mounts_in(place)
        attached = Path("/sys/block").glob("loop*/loop/backing_file")
        assert str(image) not in [path.read_text().strip() for path in attached]


@runtimes
@pytest.mark.parametrize("kind", ["overlay", "bind"])
@in_loop
async def test_a_root_with_the_owners_of_a_user_namespace(
    place: Path, runtime: str, kind: str
) -> None:
    """The container's root owns what is root's on the disk; and an exec's as well."""
    config = spec(["sh", "-c", "stat -c %u:%g /bin/busybox; cat /proc/self/uid_map"])
    config["linux"] |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    config["linux"]["namespaces"].append({"type": "user"})
    async with Shim(place, runtime=runtime) as shim:
        os.chown(shim.rootfs / "bin/busybox", 7, 8)
        await shim.up("c", config=config)
        mount = overlay(shim, "c", 2, *MAPS)
        os.chown(place / "snapshots/c/fs", 100_000, 100_000)
        if kind == "bind":
            options = ["rbind", "rw", *MAPS]
            mount = {"type": "bind", "source": str(shim.rootfs), "options": options}
        said = (await life(shim, "c", [mount])).split()
        assert [b"7:8", b"0", b"100000", b"65536"] == said
        assert [] == mounts_in(place)


@runtimes
@in_loop
async def test_a_failed_create_undoes_what_it_did(place: Path, runtime: str) -> None:
    """Whether a later mount fails or the runtime; and the next create is well."""
    async with Shim(place, runtime=runtime) as shim:
        await shim.up("c", ["/no/such"])
        mount = overlay(shim, "c", 2, *MAPS)
        image = place / "image"
        image.write_bytes(bytes(1 << 20))
        no_fs = {"type": "ext4", "source": str(image), "options": ["loop"]}
        for rootfs, said in (
            ([mount, no_fs], "failed to mount rootfs component: .*invalid argument"),
            ([mount, {"type": "fuse.no", "source": "x"}], "mount.fuse: no such file"),
            ([mount, mount], "OCI runtime create failed: "),
        ):
            with pytest.raises(DunnageError, match=said):
                # Execution begins with start, but the program is looked for now.
                await shim.call("c", "create", rootfs=rootfs)
            assert [] == mounts_in(place)
        assert [] == shim.said("c")
        attached = Path("/sys/block").glob("loop*/loop/backing_file")
        assert str(image) not in [path.read_text().strip() for path in attached]


@in_loop
async def test_a_mount_that_hangs_holds_up_nobody(place: Path) -> None:
    """All else of the shim goes on, and so does that create when its mount comes."""
    helper = place / "bin/mount.fuse"
    helper.parent.mkdir()
    gate = place / "gate"
    os.mkfifo(gate)
    script = f'read x <{gate}; mount --bind "$1" "$2"'
    helper.write_text(f"#!/bin/sh\n{script}\n")
    helper.chmod(0o755)
    path = f"{helper.parent}:{os.environ['PATH']}"
    async with Shim(place, environment={"PATH": path}) as shim:
        await shim.up("c", ["sh", "-c", "exit 5"])
        rootfs = [{"type": "fuse.hangs", "source": str(shim.rootfs)}]
        creating = asyncio.ensure_future(shim.call("c", "create", rootfs=rootfs))
        fds: list[int] = []

        def reads() -> bool:
            try:
                fds.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return False
            return True

        await until(reads)
        shim.member("d", "c", spec(["sh", "-c", "exit 6"]))
        await shim.call("d", "create")
        await shim.call("d", "start")
        assert 6 == (await shim.call("d", "wait")).exit_status
        await shim.call("d", "delete")
        assert not creating.done()
        os.write(fds[0], b"\n")
        os.close(fds[0])
        await creating
        await shim.call("c", "start")
        assert 5 == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete")
        assert [] == mounts_in(place)
