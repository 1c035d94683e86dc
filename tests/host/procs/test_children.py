"""Reaping, claiming, running and calling, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from dunnage.errors import InvalidArgument, Unknown
from dunnage.host.procs import Children, Exited, set_child_subreaper

SH = "/bin/sh"


def in_child(body: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run ``body`` in a process of its own: it becomes a subreaper and reaps all."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for fd in os.listdir("/proc/self/fd"):  # what the test run inherited
                with contextlib.suppress(OSError):
                    os.set_inheritable(int(fd), False)
            set_child_subreaper()
            asyncio.run(body())
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_run_collects_what_a_program_says() -> None:
    """Status, stdout and stderr come back, stdin goes in, cwd and env are as given."""

    async def body() -> None:
        with Children() as children:
            done = await children.run(
                [SH, "-c", "cat; pwd; echo $A >&2; exit 3"],
                stdin=b"in\n",
                cwd="/",
                env={"A": "b"},
            )
        assert (3, b"in\n/\n", b"b\n") == done

    in_child(body)


def test_run_tells_a_signal_as_128_and_more() -> None:
    """A killed program's status is 128 + signal."""

    async def body() -> None:
        with Children() as children:
            done = await children.run([SH, "-c", "kill -9 $$"])
        assert done.status == 137

    in_child(body)


def test_run_kills_what_takes_too_long() -> None:
    """A limit kills the program; a daemon that holds its output does not matter."""

    async def body() -> None:
        with Children() as children:
            begin = time.monotonic()
            done = await children.run([SH, "-c", "sleep 50"], timeout_s=0.05)
            assert done.status == 137
            left = await children.run([SH, "-c", "sleep 5 & echo $!"])
            assert time.monotonic() - begin < 5
            os.kill(int(left.stdout), signal.SIGKILL)

    in_child(body)


@pytest.mark.parametrize(
    ("name", "error"),
    [("missing", FileNotFoundError), ("plain", PermissionError)],
)
def test_what_cannot_be_started_raises(
    tmp_path: Path, name: str, error: type[OSError]
) -> None:
    """No such program, or not executable: the error of the exec, named, no child."""
    (tmp_path / "plain").write_text("no program")
    program = str(tmp_path / name)

    async def body() -> None:
        with Children() as children:
            with pytest.raises(error) as raised:
                await children.run([program])
            assert raised.value.filename == program
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

    in_child(body)


def test_a_child_inherits_nothing_of_ours() -> None:
    """No fd but 0, 1, 2; no ignored or blocked signal; the original fd limit."""

    async def body() -> None:
        extra = os.open("/dev/null", os.O_RDONLY)
        with Children() as children:
            done = await children.run(
                [
                    SH,
                    "-c",
                    "ls /proc/self/fd; grep -E '^Sig(Blk|Ign)' /proc/self/status",
                ]
            )
        os.close(extra)
        lines = done.stdout.decode().split()
        assert ["0", "1", "2", "3"] == lines[:4]  # 3: ls reads the directory
        assert lines[4:] == [
            "SigBlk:",
            "0000000000000000",
            "SigIgn:",
            "0000000000000000",
        ]

    in_child(body)


def test_a_child_dies_with_us(tmp_path: Path) -> None:
    """The kernel kills a program whose spawner is gone."""
    said = tmp_path / "pid"
    spawner = os.fork()
    if spawner == 0:

        async def body() -> None:
            with Children() as children:
                done = children.run([SH, "-c", f"echo $$ > {said}; exec sleep 60"])
                task = asyncio.ensure_future(done)
                while not (said.exists() and said.read_text().strip()):
                    await asyncio.sleep(0.005)
                os._exit(0)
                await task

        asyncio.run(body())
    os.waitpid(spawner, 0)
    pid = int(said.read_text())
    limit = time.monotonic() + 5
    while _is_alive(pid):
        assert time.monotonic() < limit, "it lives on"
        time.sleep(0.005)


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# A runtime that leaves an orphan and never reaps it, which a shell sometimes does.
RUNTIME = """
import os, sys
body, file = sys.argv[1:]
pid = os.fork()
if pid == 0:
    os.execv("/bin/sh", ["sh", "-c", body])
if body == "exit 5":
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
with open(file, "w") as out:
    out.write(str(pid))
"""


@pytest.mark.parametrize("body", ["exit 5", "sleep 0.05; exit 5"])
def test_a_claim_gets_the_orphan_that_its_pid_file_names(
    tmp_path: Path, body: str
) -> None:
    """Dead before the runtime's exit was seen, or after: the status arrives, once."""
    file = tmp_path / "init.pid"
    file.write_text("1")  # stale: must not matter

    async def main() -> None:
        heard: list[Exited] = []
        with Children() as children:
            with children.expecting(str(file)) as claim:
                await children.run([sys.executable, "-c", RUNTIME, body, str(file)])
                child = claim.child()
            child.listen(heard.append)
            exited = await asyncio.wait_for(child.wait(), 5)
            assert exited.status == 5
            assert [exited] == heard
            with pytest.raises(ProcessLookupError):
                child.kill(0)
            assert not children._known
            assert not children._claims

    in_child(main)


def test_a_claim_gets_an_orphan_that_died_before_its_pid_file(tmp_path: Path) -> None:
    """As crun's exec: the orphan is ours, and reaped, before the runtime names it."""
    file = tmp_path / "init.pid"
    early = tmp_path / "early"

    async def main() -> None:
        with Children() as children:
            with children.expecting(str(file)) as claim:
                fork_twice = f"( sh -c 'echo -n $$ > {early}; exit 5' & ) ; exit 0"
                await children.run([SH, "-c", fork_twice])
                while not any(claim._orphans):
                    await asyncio.sleep(0.005)
                await children.run([SH, "-c", f"cp {early} {file}"])
                child = claim.child()
            assert child.exited is not None
            assert child.exited.status == 5

    in_child(main)


def test_a_recycled_pid_does_not_find_a_strangers_status(tmp_path: Path) -> None:
    """A kept status of a pid that is a living child of ours again is not believed."""
    file = tmp_path / "init.pid"

    async def main() -> None:
        with Children() as children:
            with children.expecting(str(file)) as claim:
                await children.run([SH, "-c", f"sleep 60 & echo -n $! > {file}"])
                claim.keep(int(file.read_text()), Exited(9, 1))
                child = claim.child()
            assert child.exited is None
            child.kill(signal.SIGKILL)
            assert (await child.wait()).status == 137

    in_child(main)


def test_who_was_reaped_by_another_ended_with_an_unknown_status(tmp_path: Path) -> None:
    """A pid that is no child of ours, and never was, gives 255."""
    file = tmp_path / "init.pid"

    async def main() -> None:
        with Children() as children, children.expecting(str(file)) as claim:
            file.write_text("1")
            child = claim.child()
        assert child.exited is not None
        assert child.exited.status == 255

    in_child(main)


@contextlib.contextmanager
def no_fds() -> Iterator[None]:
    """Have no descriptor left, until the end of the block."""
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, old[1]))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.eventfd(0))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, old)


def test_a_claim_has_a_descriptor_for_its_pid_file(tmp_path: Path) -> None:
    """Whoever took the last ones while the runtime ran: its process can be ended."""
    file = tmp_path / "init.pid"

    async def main() -> None:
        with Children() as children:
            before = os.listdir("/proc/self/fd")
            with children.expecting(str(file)) as claim:
                await children.run([SH, "-c", f"sleep 60 & echo -n $! > {file}"])
                with no_fds():
                    child = claim.child()
                    assert child is claim.child()
                child.kill(signal.SIGKILL)
                assert (await child.wait()).status == 137
            none_left = pytest.raises(OSError, match="Too many open files")
            with no_fds(), none_left, children.expecting(str(file)):
                pytest.fail("it could not be read")
            assert not children._claims
            assert before == os.listdir("/proc/self/fd")

    in_child(main)


def test_orphans_that_nobody_claims_are_dropped(tmp_path: Path) -> None:
    """A stranger's status is neither kept nor mistaken for a claimed one."""

    async def main() -> None:
        with Children() as children:
            with children.expecting(str(tmp_path / "pid")) as claim:
                await children.run([SH, "-c", "(exit 9) & (exit 8) & exit 0"])
                with pytest.raises(FileNotFoundError):
                    claim.child()
            done = await children.run([SH, "-c", "exit 0"])
            assert done.status == 0
            assert not children._known

    in_child(main)


def test_call_brings_errors_back() -> None:
    """A call in a forked child raises what its body raised, with code and text."""

    def bad() -> None:
        raise InvalidArgument("no such thing")

    def worse() -> None:
        raise ValueError("odd")

    async def main() -> None:
        with Children() as children:
            await children.call(lambda: None)
            with pytest.raises(InvalidArgument, match="no such thing"):
                await children.call(bad)
            with pytest.raises(Unknown, match="ValueError: odd"):
                await children.call(worse)

    in_child(main)


def test_call_keeps_nothing_of_ours_open() -> None:
    """A body that hangs holds no pipe of a container's, and has descriptors for itself.

    Also where we have none left.
    """

    def body() -> None:
        found = os.listdir("/proc/self/fd")
        if len(found) > 5:  # 0 to 2, the report, and the listing itself
            raise InvalidArgument(f"open: {found}")

    async def main() -> None:
        with Children() as children:
            kept = [os.pipe() for _ in range(3)]
            ready = os.dup(0)
            os.close(ready)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (ready + 2, hard))
            await children.call(body)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for ends in kept:
                for fd in ends:
                    os.close(fd)

    in_child(main)


def test_a_nul_in_an_argument_is_an_invalid_one() -> None:
    """What the kernel never gets to see is told like what it refuses."""

    async def main() -> None:
        with Children() as children:
            with pytest.raises(OSError, match="Invalid argument"):
                await children.run([SH, "a\0b"])
            with pytest.raises(OSError, match="Invalid argument"):
                await children.run([SH], cwd="/\0")

    in_child(main)
