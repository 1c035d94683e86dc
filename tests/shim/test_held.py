"""Output that is unread when its process is deleted, through the shim binary."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dunnage.host.stdio.fd import unread_bytes

from .altered import altered
from .harness import Shim, ended, in_loop, is_alive, proc_status, spec, until
from .test_daemon import socket_of
from .test_terminal import terminal_spec

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
FIFO_BYTES = 65536
COUNT = ["seq", "1", "100000000"]


class Reader:
    """A client that reads when it is told to."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.got = b""
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self, size: int = 1 << 20) -> bool:
        """Read what is there; return whether that is the end."""
        try:
            data = os.read(self.fd, size)
        except BlockingIOError:
            return False
        self.got += data
        return not data

    def counted(self) -> int:
        """Return how many whole lines of COUNT came, and see that all are right."""
        lines = self.got.split(b"\n")[:-1]
        assert [b"%d" % number for number in range(1, len(lines) + 1)] == lines
        return len(lines)


async def killed_and_deleted(
    shim: Shim, reader: Reader, *, terminal: bool = False
) -> int:
    """Have the reader of COUNT stall, kill and delete; return the shim's pid."""
    raw = terminal_spec(["sh", "-c", f"stty raw; exec {' '.join(COUNT)}"])
    await shim.up("c", config=raw if terminal else spec(COUNT))
    await shim.call("c", "create", stdout=str(reader.path), terminal=terminal)
    await shim.call("c", "start")
    await until(lambda: reader.read(4096) or len(reader.got) > 10_000)
    # In a terminal it also waits now and then for us; so look more than once.
    looks: list[int] = []
    await until(lambda: is_at_rest(shim, reader, looks))
    await shim.call("c", "kill", signal=9)
    assert 137 == (await shim.call("c", "wait")).exit_status
    began = time.monotonic()
    assert 137 == (await shim.call("c", "delete")).exit_status
    assert 0.2 <= time.monotonic() - began < 2
    return int((await shim.call("c", "connect")).shim_pid)


def is_at_rest(shim: Shim, reader: Reader, looks: list[int]) -> bool:
    """Whether the process, which has only to write, waits, and nothing moves."""
    pid = int((shim.bundles / "c/init.pid").read_text())
    waits = proc_status(pid)["State"].startswith("S")
    looks.append(unread_bytes(reader.fd) if waits else -len(looks))
    return len(looks) > 10 and len(set(looks[-10:])) == 1


@RUNTIMES
@in_loop
async def test_it_is_held_beyond_shutdown(tmp_path: Path, runtime: str) -> None:
    """output-held: Delete and Shutdown answer; the rest is read later, to its end.

    A successor of the same id lives and goes meanwhile.
    """
    async with Shim(tmp_path, runtime=runtime) as shim:
        reader = Reader(tmp_path / "out")
        pid = await killed_and_deleted(shim, reader)
        where = (shim.bundles / "c/address").read_text().removeprefix("unix://")
        await shim.call("c", "shutdown")
        assert not Path(where).exists()
        shim.bury("c")
        assert [] == shim.strays()

        await shim.up("c", ["sh", "-c", "echo successor; exit 4"])
        second = Reader(tmp_path / "second")
        await shim.call("c", "create", stdout=str(second.path))
        await shim.call("c", "start")
        assert 4 == (await shim.call("c", "wait")).exit_status
        await until(second.read)
        assert b"successor\n" == second.got
        successor = (await shim.call("c", "connect")).shim_pid
        assert successor != pid
        await shim.call("c", "delete")
        await shim.call("c", "shutdown")
        await ended(successor)
        os.close(second.fd)

        assert is_alive(pid)
        before = len(reader.got)
        await until(reader.read)
        # A fifo and a pipe full: what we had taken and the process had written.
        assert len(reader.got) - before > FIFO_BYTES + FIFO_BYTES // 2
        assert reader.counted()
        await ended(pid)
        os.close(reader.fd)
        assert [] == await shim.gone("c")
        life = ["Create", "Start", "Exit", "Delete"]
        assert life * 2 == shim.kinds()


@RUNTIMES
@in_loop
async def test_of_a_terminal(tmp_path: Path, runtime: str) -> None:
    """output-held: what was written to a terminal is held without its process, too."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        reader = Reader(tmp_path / "out")
        pid = await killed_and_deleted(shim, reader, terminal=True)
        await shim.call("c", "shutdown")
        before = len(reader.got)
        await until(reader.read)
        # A fifo full, though not to the last byte, and what the terminal had taken.
        assert len(reader.got) - before > FIFO_BYTES // 2
        assert reader.counted()
        await ended(pid)
        os.close(reader.fd)
        assert [] == await shim.gone("c")


@in_loop
async def test_in_a_shim_that_stays(tmp_path: Path) -> None:
    """output-held: another container of the same id in the same shim is apart from it.

    Once it is read the shim has nothing of it left.
    """
    async with Shim(tmp_path) as shim:
        reader = Reader(tmp_path / "out")
        pid = await killed_and_deleted(shim, reader)
        fds = Path(f"/proc/{pid}/fd")
        held = len(list(fds.iterdir()))
        second = Reader(tmp_path / "second")
        await shim.call("c", "create", stdout=str(second.path))
        await shim.call("c", "start")
        await until(lambda: second.read(4096) or len(second.got) > 10_000)
        await shim.call("c", "kill", signal=9)
        await until(second.read)
        assert second.counted()
        await shim.call("c", "delete")
        assert held == len(list(fds.iterdir()))
        await until(reader.read)
        assert reader.counted()
        await until(lambda: len(list(fds.iterdir())) < held)
        await shim.call("c", "shutdown")
        await ended(pid)
        os.close(reader.fd)
        os.close(second.fd)
        assert [] == await shim.gone("c")


@in_loop
async def test_a_reader_that_is_gone_for_good(tmp_path: Path) -> None:
    """Nobody can read it any more: the shim says so and leaves."""
    async with Shim(tmp_path) as shim:
        reader = Reader(tmp_path / "out")
        pid = await killed_and_deleted(shim, reader)
        await shim.call("c", "shutdown")
        os.close(reader.fd)
        reader.path.unlink()
        await ended(pid)
        assert [] == await shim.gone("c")
        log = shim.log("c")
        assert "bytes of output unread" in log
        assert "bytes of its output were never read" in log


@in_loop
async def test_a_reader_that_is_silent_for_too_long(tmp_path: Path) -> None:
    """output-held: after a stated time the shim says so and leaves, socket first."""
    (tmp_path / "s").mkdir()
    limit = (
        "from dunnage.host.stdio import held\nheld.Held.__init__.__defaults__ = (2,)"
    )
    async with Shim(tmp_path / "s", altered(tmp_path, limit)) as shim:
        reader = Reader(tmp_path / "out")
        pid = await killed_and_deleted(shim, reader)
        await shim.call("c", "shutdown")
        assert not socket_of(shim, "c").exists()
        assert is_alive(pid)
        await ended(pid)
        assert "bytes of its output were never read" in shim.log("c")
        # It has the rest of the fifo: that goes with its last descriptor only.
        await until(reader.read)
        assert reader.counted()
        os.close(reader.fd)
        assert [] == await shim.gone("c")


ENDLESS = "from dunnage.shim import service\nservice.DRAIN_LIMIT_S = 1.5\n"


@RUNTIMES
@pytest.mark.parametrize("exec_id", ["", "e"], ids=["init", "exec"])
@in_loop
async def test_output_without_end(tmp_path: Path, runtime: str, exec_id: str) -> None:
    """Somebody has the stdout and writes for ever: Delete answers at its limit.

    Of an exec it is a child that it has left; of init, whose others die with it, one
    outside.
    """
    (tmp_path / "s").mkdir()
    binary = altered(tmp_path, ENDLESS, _LEAVING_DRAIN_S=0.5)
    out = tmp_path / "out"
    os.mkfifo(out)
    async with Shim(tmp_path / "s", binary, runtime=runtime) as shim:
        with contextlib.ExitStack() as stack:
            argv = f"exec cat {out} >/dev/null"
            reader = stack.enter_context(subprocess.Popen(["sh", "-c", argv]))
            stack.callback(reader.kill)
            child = "(yes & ) ; exit 4" if exec_id else "read x; exit 4"
            script = ["sh", "-c", child]
            fields: dict[str, Any] = {"stdout": str(out)}
            os.mkfifo(tmp_path / "in")
            if not exec_id:
                fields["stdin"] = str(tmp_path / "in")
            await shim.up("c", ["sleep", "1000"] if exec_id else script)
            pid = (await shim.call("c", "create", **({} if exec_id else fields))).pid
            server = (await shim.call("c", "connect")).shim_pid
            await shim.call("c", "start")
            if exec_id:
                await shim.exec("c", exec_id, script, **fields)
                await shim.call("c", "start", exec_id=exec_id)
            else:
                argv = f"exec yes >/proc/{pid}/fd/1"
                other = stack.enter_context(subprocess.Popen(["sh", "-c", argv]))
                stack.callback(other.kill)
                await until(lambda: b"yes" in cmdline(other.pid))
                (tmp_path / "in").write_text("\n")
            waited = await shim.call("c", "wait", exec_id=exec_id)
            assert 4 == waited.exit_status
            began = time.monotonic()
            deleted = await shim.call("c", "delete", exec_id=exec_id)
            assert 4 == deleted.exit_status
            # Far from the limit that is not ours.
            assert 1.5 <= time.monotonic() - began < 7
            if exec_id:
                await shim.call("c", "kill", signal=9)
                await shim.call("c", "wait")
                await shim.call("c", "delete")
            await shim.call("c", "shutdown")
            assert not socket_of(shim, "c").exists()
            await ended(server)
            assert [] == await shim.gone("c")


def cmdline(pid: int) -> bytes:
    """Return what a process is."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


@in_loop
async def test_a_daemonised_child_of_an_exec(tmp_path: Path) -> None:
    """Its exec is deleted; what it writes while something is unread is not lost."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        reader = Reader(tmp_path / "out")
        script = (
            "head -c 100000 /dev/zero & wait; mkfifo /tmp/go;"
            "(read x </tmp/go; echo later; : >/tmp/done; exec sleep 1000) & exit 4"
        )
        await shim.exec("c", "e", ["sh", "-c", script], stdout=str(reader.path))
        await shim.call("c", "start", exec_id="e")
        assert 4 == (await shim.call("c", "wait", exec_id="e")).exit_status
        began = time.monotonic()
        assert 4 == (await shim.call("c", "delete", exec_id="e")).exit_status
        assert time.monotonic() - began < 2
        (shim.rootfs / "tmp/go").write_text("\n")
        await until((shim.rootfs / "tmp/done").exists)
        await until(reader.read)
        assert bytes(100000) + b"later\n" == reader.got
        os.close(reader.fd)
        # The child lives on.
        assert 2 == len((await shim.call("c", "pids")).processes)
