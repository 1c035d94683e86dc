"""Binary loggers, through the shim binary."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dunnage.errors import DunnageError

from .harness import Shim, ended, in_loop, spec, until
from .test_terminal import terminal_spec

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
KEEPS = f"""#!{sys.executable} -IS
import os, selectors, sys
where = sys.argv[1]
with open(f"{{where}}/{{os.environ['CONTAINER_ID']}}", "w") as file:
    print(os.getpid(), os.environ["CONTAINER_NAMESPACE"], file=file)
files = {{3: open(f"{{where}}/out", "ab", 0), 4: open(f"{{where}}/err", "ab", 0)}}
for fd in files:
    os.set_blocking(fd, False)
selector = selectors.DefaultSelector()
for fd in files:
    selector.register(fd, selectors.EVENT_READ)
os.write(5, b"+")
os.close(5)
while selector.get_map():
    for key, _ in selector.select():
        if data := os.read(key.fd, 1 << 16):
            files[key.fd].write(data)
        else:
            selector.unregister(key.fd)
for file in files.values():
    file.write(b"END\\n")
"""
LIST_FDS = "for n in /proc/self/fd/*; do readlink $n; done"


class Kept:
    """A logger, and what it has kept."""

    def __init__(self, directory: Path, text: str = KEEPS) -> None:
        self.directory = directory / "kept"
        self.directory.mkdir()
        self.program = directory / "logger"
        self.program.write_text(text)
        self.program.chmod(0o700)

    def uri(self, scheme: str = "binary") -> str:
        """Return its name as an output."""
        return f"{scheme}://{self.program}?{self.directory}"

    def fields(self, scheme: str = "binary") -> dict[str, Any]:
        """Return what Create and Exec are told."""
        return {"stdout": self.uri(scheme), "stderr": self.uri(scheme)}

    def read(self, name: str) -> str:
        """Return what it has kept of an output."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / name).read_text()
        return ""

    def pid(self, of: str = "c") -> int:
        """Return the pid of the logger of a process."""
        return int(self.read(of).split()[0])


async def started(shim: Shim, args: list[str], **fields: Any) -> None:
    """Have the container ``c``, started."""
    config = terminal_spec(args) if fields.get("terminal") else spec(args)
    await shim.up("c", config=config)
    await shim.call("c", "create", **fields)
    await shim.call("c", "start")


async def deleted(shim: Shim, status: int = 0) -> None:
    """Wait for the end of ``c``, delete it and see that nothing is left."""
    assert status == (await shim.call("c", "wait")).exit_status
    await shim.call("c", "delete")
    await shim.call("c", "shutdown")
    assert [] == await shim.gone("c")


def fds(pid: int) -> list[str]:
    """Return what a process has open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(f"{entry.name} {entry.readlink()}")
    return sorted(found)


def pipes(pid: int) -> list[str]:
    """Return what of it a logger could have cost; that to the daemon comes and goes."""
    return [fd for fd in fds(pid) if "pipe:" in fd or "null" in fd]


@RUNTIMES
@pytest.mark.parametrize("scheme", ["binary", "binary-v2"])
@in_loop
async def test_a_life(tmp_path: Path, runtime: str, scheme: str) -> None:
    """By the time that Delete answers, the logger has all and has ended."""
    kept = Kept(tmp_path)
    async with Shim(tmp_path, runtime=runtime) as shim:
        script = "seq 1 100000; echo err >&2; exit 3"
        await started(shim, ["sh", "-c", script], **kept.fields(scheme))
        assert 3 == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete")
        assert [*map(str, range(1, 100001)), "END"] == kept.read("out").split()
        assert "err\nEND\n" == kept.read("err")
        assert not Path(f"/proc/{kept.pid()}").exists()
        assert shim.namespace == kept.read("c").split()[1]
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")


@RUNTIMES
@in_loop
async def test_nothing_leaks(tmp_path: Path, runtime: str) -> None:
    """Neither into a container, nor an exec, nor their loggers; nor stays in a shim."""
    kept = Kept(tmp_path)
    async with Shim(tmp_path, runtime=runtime) as shim:
        args = ["sh", "-c", f"{LIST_FDS}; exec sleep 1000"]
        await shim.up("c", args)
        pid = (await shim.call("c", "connect")).shim_pid
        before = pipes(pid)
        await shim.call("c", "create", **kept.fields())
        await shim.call("c", "start")
        await until(lambda: len(kept.read("out").split()) == 3)
        init = (await shim.call("c", "state")).pid
        await until(lambda: Path(f"/proc/{init}/comm").read_text() == "sleep\n")
        out = os.readlink(f"/proc/{init}/fd/1")
        err = os.readlink(f"/proc/{init}/fd/2")
        assert ["0 /dev/null", f"1 {out}", f"2 {err}"] == fds(init)

        await shim.exec(
            "c", "e", ["sh", "-c", f"{LIST_FDS}; exec sleep 1000"], **kept.fields()
        )
        await shim.call("c", "start", exec_id="e")
        process = (await shim.call("c", "state", exec_id="e")).pid
        await until(lambda: Path(f"/proc/{process}/comm").read_text() == "sleep\n")
        assert ["0", "1", "2"] == [fd.split()[0] for fd in fds(process)]
        own = ["0 /dev/null", "1 /dev/null", "2 /dev/null"]
        for name, of in (("c", init), ("e", process)):
            out, err = (os.readlink(f"/proc/{of}/fd/{n}") for n in (1, 2))
            had = fds(kept.pid(name))
            files = [fd for fd in had if str(kept.directory) in fd]
            assert 2 == len(files)
            rest = [fd for fd in had if fd not in files and "eventpoll" not in fd]
            assert [*own, f"3 {out}", f"4 {err}"] == rest
        for logger in (kept.pid("c"), kept.pid("e")):
            limits = Path(f"/proc/{logger}/limits").read_text()
            ours = Path("/proc/self/limits").read_text()
            line = next(x for x in ours.splitlines() if "open files" in x)
            assert line in limits

        await shim.call("c", "kill", signal=9)
        await shim.call("c", "wait")
        await shim.call("c", "delete", exec_id="e")
        await shim.call("c", "delete")
        assert before == pipes(pid)
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")


@RUNTIMES
@in_loop
async def test_of_a_terminal(tmp_path: Path, runtime: str) -> None:
    """What a terminal says goes to the logger's fd 3; its fd 4 is at its end."""
    kept = Kept(tmp_path)
    async with Shim(tmp_path, runtime=runtime) as shim:
        script = "echo out; echo err >&2; seq 1 10000"
        uri = kept.uri()
        await started(shim, ["sh", "-c", script], stdout=uri, terminal=True)
        await deleted(shim)
        wanted = ["out", "err", *map(str, range(1, 10001)), "END"]
        assert wanted == kept.read("out").split()
        assert "END\n" == kept.read("err")


@RUNTIMES
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("#!/bin/sh\nexit 3\n", "logging binary .* did not call ready: .* status 3"),
        ("#!/no/such\n", "failed to start binary process: .* no such file"),
    ],
)
@in_loop
async def test_one_that_is_not_ready(
    tmp_path: Path, runtime: str, text: str, error: str
) -> None:
    """Create, and the start of an exec, fail with a clear text and leave nothing."""
    kept = Kept(tmp_path, text)
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", ["sleep", "1000"])
        pid = (await shim.call("c", "connect")).shim_pid
        before = fds(pid)
        with pytest.raises(DunnageError, match=f"^failed to create init.*{error}"):
            await shim.call("c", "create", **kept.fields())
        assert before == fds(pid)
        mounts = Path("/proc/self/mountinfo").read_text()
        assert str(shim.bundles / "c") not in mounts
        await shim.call("c", "create")
        await shim.call("c", "start")
        before = fds(pid)
        await shim.exec("c", "e", ["true"], **kept.fields())
        with pytest.raises(DunnageError, match=f"^failed to create init.*{error}"):
            await shim.call("c", "start", exec_id="e")
        assert before == fds(pid)
        await shim.call("c", "delete", exec_id="e")
        await shim.call("c", "kill", signal=9)
        await deleted(shim, 137)


@in_loop
async def test_a_runtime_that_fails_later(tmp_path: Path) -> None:
    """The logger that was ready by then goes, too, whatever it thinks of that."""
    text = "#!/bin/sh\necho $$ >$1/c; trap '' TERM; echo >&5; exec sleep 1000\n"
    kept = Kept(tmp_path, text)
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["/no/such"])
        with pytest.raises(DunnageError, match="no such file"):
            await shim.call("c", "create", **kept.fields())
        assert not Path(f"/proc/{kept.pid()}").exists()
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")


@RUNTIMES
@in_loop
async def test_one_that_is_killed(tmp_path: Path, runtime: str) -> None:
    """The container does not notice, and its successor has all that comes."""
    kept = Kept(tmp_path)
    async with Shim(tmp_path, runtime=runtime) as shim:
        script = "echo one; mkfifo /tmp/go; read x </tmp/go; seq 1 50000"
        await started(shim, ["sh", "-c", script], **kept.fields())
        go = shim.rootfs / "tmp/go"
        await until(lambda: kept.read("out") == "one\n" and go.exists())
        first = kept.pid()
        os.kill(first, 9)
        await asyncio.to_thread(go.write_text, "\n")
        await deleted(shim)
        assert first != kept.pid()
        assert ["one", *map(str, range(1, 50001)), "END"] == kept.read("out").split()
        assert "has ended with status 137 before the output" in shim.log("c")


@in_loop
async def test_it_outlives_its_shim(tmp_path: Path) -> None:
    """A shim that is killed takes no output with it: the logger reads to the end."""
    kept = Kept(tmp_path)
    async with Shim(tmp_path) as shim:
        script = "echo one; mkfifo /tmp/go; read x </tmp/go; echo two; exec sleep 1000"
        await started(shim, ["sh", "-c", script], **kept.fields())
        go = shim.rootfs / "tmp/go"
        await until(lambda: kept.read("out") == "one\n" and go.exists())
        await shim.kill_shim("c")
        await asyncio.to_thread(go.write_text, "\n")
        await until(lambda: kept.read("out") == "one\ntwo\n")
        assert 0 == shim.delete_action("c").returncode
        await until(lambda: kept.read("out") == "one\ntwo\nEND\n")
        await ended(kept.pid())


@in_loop
async def test_an_idle_one_wakes_nobody(tmp_path: Path) -> None:
    """While nothing is said, the shim sleeps; what is said does not wake it either."""
    kept = Kept(tmp_path)
    async with Shim(tmp_path) as shim:
        script = "while read x; do seq 1 1000; done </tmp/go"
        os.mkfifo(shim.rootfs / "tmp/go")
        await started(shim, ["sh", "-c", script], **kept.fields())
        pid = (await shim.call("c", "connect")).shim_pid
        writer = await asyncio.to_thread(os.open, shim.rootfs / "tmp/go", os.O_WRONLY)

        def slept() -> int:
            status = Path(f"/proc/{pid}/status").read_text()
            lines = [x for x in status.splitlines() if "ctxt_switches" in x]
            return sum(int(line.split()[1]) for line in lines)

        looks = []

        async def is_at_rest() -> bool:
            looks.append(slept())
            await asyncio.sleep(0.2)
            return len(looks) > 5 and len(set(looks[-5:])) == 1

        async with asyncio.timeout(20):
            while not await is_at_rest():
                pass
            os.write(writer, b"\n" * 10)
            await until(lambda: kept.read("out").count("\n") == 10000)
            assert looks[-1] == slept()
        os.close(writer)
        await deleted(shim)
