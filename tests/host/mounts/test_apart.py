"""Mounting and unmounting for a loop: quick where it can be, and like the slow way."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from tests.host.mounts.namespace import apart

from dunnage.errors import DunnageError, InvalidArgument
from dunnage.host import native
from dunnage.host.mounts import (
    Mount,
    is_mount_point,
    mount_all_apart,
    syscalls,
    unmount_recursive_apart,
)
from dunnage.host.procs import Children

needs_library = pytest.mark.skipif(
    native.library is None, reason="built without a compiler"
)


@pytest.fixture(
    params=[pytest.param("quick", marks=needs_library), "forked"], autouse=True
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test once more without the library."""
    if request.param == "forked":
        monkeypatch.setattr(native, "library", None)


def run(body: Callable[[Children], Coroutine[None, None, None]]) -> None:
    """Run ``body`` in a loop, with the reaper that it needs."""

    async def main() -> None:
        with Children() as children:
            await body(children)

    asyncio.run(main())


async def readable(fd: int) -> None:
    """Wait until there is something to read, or the last writer is gone."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    await event.wait()
    loop.remove_reader(fd)


def tmpfs(*options: str, target: str = "") -> Mount:
    """A file system that is empty."""
    return Mount("tmpfs", "tmpfs", target, ("size=64k", *options))


@apart
def test_mounts_undone_however_they_were_made(tmp_path: Path) -> None:
    """mounts-undone: one mount, several, stacked ones, one inside: made, and undone."""
    (tmp_path / "source/sub").mkdir(parents=True)
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    bind = Mount("bind", str(tmp_path / "source"), "", ("rbind",))
    read_only = Mount("bind", str(tmp_path / "source"), "", ("rbind", "ro"))

    async def body(children: Children) -> None:
        for mounts in (
            [],
            [tmpfs()],
            [bind],
            [read_only],
            [tmpfs(), bind],
            [bind, tmpfs(target="sub")],
        ):
            await mount_all_apart(children, mounts, str(rootfs))
            assert bool(mounts) is is_mount_point(str(rootfs))
            if read_only in mounts:
                with pytest.raises(OSError, match="Read-only"):
                    (rootfs / "x").touch()
            for _ in range(2):  # what is undone already is no error
                await unmount_recursive_apart(children, str(rootfs))
            assert not list(rootfs.iterdir())
        await unmount_recursive_apart(children, str(tmp_path / "none"))

    run(body)


@apart
def test_mounts_undone_where_only_something_inside_is_mounted(tmp_path: Path) -> None:
    """mounts-undone: a directory that is no mount point may hold some."""
    inside = tmp_path / "rootfs/inside"
    inside.mkdir(parents=True)
    syscalls.mount("tmpfs", str(inside), "tmpfs", 0, "")
    run(lambda children: unmount_recursive_apart(children, str(tmp_path / "rootfs")))
    assert not is_mount_point(str(inside))


@apart
def test_mounts_undone_behind_a_link(tmp_path: Path) -> None:
    """mounts-undone: what a link names, as it was mounted through that."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "rootfs"
    link.symlink_to("real")

    async def body(children: Children) -> None:
        await mount_all_apart(children, [tmpfs()], str(link))
        assert is_mount_point(str(tmp_path / "real"))
        await unmount_recursive_apart(children, str(link))
        assert not is_mount_point(str(tmp_path / "real"))

    run(body)


@pytest.mark.slow
@apart
def test_mounts_undone_when_they_are_busy_no_more(tmp_path: Path) -> None:
    """mounts-undone: somebody who works in it is waited for."""

    async def body(children: Children) -> None:
        await mount_all_apart(children, [tmpfs()], str(tmp_path))
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        fds = (null, null, null)
        user = children.spawn(["sleep", "60"], fds=fds, cwd=str(tmp_path))
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, user.kill, signal.SIGKILL)
        await unmount_recursive_apart(children, str(tmp_path))
        assert user.exited is not None
        assert not is_mount_point(str(tmp_path))

    run(body)


@apart
def test_refusals_say_which_mount_and_why(tmp_path: Path) -> None:
    """The text and the class are the same in both ways."""

    async def body(children: Children) -> None:
        path = str(tmp_path)
        for mount, kind, text in (
            (
                Mount("bind", "/nonexistent", "", ("bind", "a=b")),
                DunnageError,
                (
                    "failed to mount rootfs component: "
                    f'mount source: "/nonexistent", target: "{path}", fstype: bind, '
                    'flags: 4096, data: "a=b", err: no such file or directory'
                ),
            ),
            (Mount("a\0b", "x"), DunnageError, "err: invalid argument"),
            (Mount("fuse3.x", "x"), DunnageError, "mount.fuse3: no such file"),
            (tmpfs("X-containerd.x=y"), InvalidArgument, "option X-containerd.x=y"),
            (tmpfs("uidmap=0:1:2"), InvalidArgument, "gid_map of a mount: ''"),
        ):
            with pytest.raises(kind) as raised:
                await mount_all_apart(children, [mount], path)
            assert text in str(raised.value)
        assert not is_mount_point(path)

    run(body)


@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="needs /dev/fuse")
@apart
def test_what_hangs_holds_up_nobody(tmp_path: Path) -> None:
    """The loop goes on, pipes are let go of, and giving up the wait harms nothing."""
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
    syscalls.mount("silent", str(tmp_path), "fuse", 0, options)

    async def body(children: Children) -> None:
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        waiting = asyncio.ensure_future(
            # The file system is asked for the name, and does not answer.
            unmount_recursive_apart(children, str(tmp_path / "name"))
        )
        while not children._known:
            await asyncio.sleep(0)
        (child,) = children._known.values()
        os.close(write_end)
        async with asyncio.timeout(10):
            await readable(read_end)
        waiting.cancel()
        del waiting
        gc.collect()
        assert child.exited is None
        os.close(fuse)  # what was asked is refused now
        async with asyncio.timeout(10):
            await child.wait()

    run(body)
