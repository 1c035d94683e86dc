"""Which memory a forked shim makes its own, by kind and by stage of its life.

    script/test has made .venv; then, as root:
    .venv/bin/python benchmarks/dirty.py
    .venv/bin/python benchmarks/dirty.py --loop stock --fork hooks --cold

A parent imports the shim, leads lives to warm the code up (unless ``--cold``), freezes
the collector, and forks one child, which is the shim that is measured, from outside.
Pages that the child has written are its own; all others it shares with the parent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

LIMIT_S: Final = 30.0
_ARENA_BYTES: Final = 1 << 18
_VMA: Final = re.compile(
    r"^(?P<begin>[0-9a-f]+)-(?P<end>[0-9a-f]+) \S+ \S+ \S+ \d+ *(?P<name>.*)$"
)


class Asked(NamedTuple):
    """What to measure."""

    loop: str
    fork: str
    warm: int
    lives: int
    runtime: str


# -- what a process has written


def own_kib(pid: int) -> Counter[str]:
    """Return what a process has to itself, in KiB by kind of mapping."""
    found: Counter[str] = Counter()
    kind, end = "", 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if vma := _VMA.match(line):
            name = vma["name"]
            begin = int(vma["begin"], 16)
            # What follows a file's mapping, nameless and small, is its bss.
            is_bss = not name and begin == end and kind.endswith("data")
            end = int(vma["end"], 16)
            if not is_bss or end - begin >= _ARENA_BYTES:
                kind = _kind(name)
        elif line.startswith(("Private_Dirty:", "Private_Clean:")):
            found[kind] += int(line.split()[1])
    return +found


def _kind(name: str) -> str:
    if not name:
        return "arenas and large blocks"
    if name.startswith("["):
        return name.strip("[]")
    file = name.rpartition("/")[2]
    for start, kind in (
        ("python", "python"),
        ("libpython", "python"),
        ("_message.", "upb"),
        ("libc.", "libc"),
        ("ld-", "ld"),
    ):
        if file.startswith(start):
            return f"{kind} data"
    return "other libraries' data"


def pss_kib(pid: int) -> int:
    """Return the proportional share of a process."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss: +(\d+)", rollup, re.MULTILINE)
    assert found, rollup
    return int(found[1])


# -- the parent, and its child that becomes the shim


def parent(asked: Asked, directory: str) -> None:
    """Import, warm up, freeze, fork; say the pid; end when the child has."""
    from dunnage.host import loop
    from dunnage.shim import daemon  # what a fork server imports

    if asked.loop == "stock":
        loop.run = asyncio.run
    gc.disable()
    if asked.warm:
        _fork_and_wait(daemon, directory, "warm", None)
    gc.collect()
    gc.freeze()
    fork = os.fork if asked.fork == "hooks" else ctypes.PyDLL(None).fork
    _fork_and_wait(daemon, directory, "shim", fork)


def _fork_and_wait(daemon: Any, directory: str, name: str, fork: Any) -> None:
    """Serve one shim: in a child, or in this very process if there is no ``fork``."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{directory}/{name}.s")
    listener.listen()
    pid = fork() if fork else 0
    if pid == 0:
        if fork:
            print(os.getpid(), flush=True)
            sys.stdin.buffer.read(1)
        else:
            print(name, flush=True)
        _serve(daemon, directory, listener)
        if fork:
            os._exit(0)
    else:
        listener.close()
        os.waitpid(pid, 0)


def _serve(daemon: Any, directory: str, listener: socket.socket) -> None:
    from dunnage.bootstrap import wire
    from dunnage.bootstrap.flags import Flags

    os.chdir(directory)
    flags = Flags(
        namespace=os.path.basename(directory), address=f"{directory}/d", id="c"
    )
    told = wire.Start(ttrpc_address=f"{directory}/d.ttrpc")
    daemon.serve(flags, told, listener)


# -- the driver


async def measure(asked: Asked, directory: Path) -> list[tuple[str, Counter[str], int]]:
    """Drive one shim through its life; return what it had to itself at each stage."""
    from dunnage.testing.daemon import FakeDaemon

    (directory / "rootfs/bin").mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing"
    shutil.copy(busybox, directory / "rootfs/bin/busybox")
    (directory / "rootfs/bin/true").symlink_to("busybox")
    for name in ("proc", "dev"):
        (directory / "rootfs" / name).mkdir()
    events = FakeDaemon(f"{directory}/d.ttrpc")
    events.start()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", __file__, "--parent", str(directory)),
        *("--loop", asked.loop, "--fork", asked.fork, "--warm", str(asked.warm)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        return await _drive(asked, directory, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
        events.stop()


async def _drive(
    asked: Asked, directory: Path, process: asyncio.subprocess.Process
) -> list[tuple[str, Counter[str], int]]:
    from dunnage.api.services import TASK_V2
    from dunnage.ttrpc.aio.client import Client

    assert process.stdin
    assert process.stdout
    if asked.warm:
        await process.stdout.readline()
        where = f"unix://{directory}/warm.s"
        client = await Client.connect(where, timeout_s=LIMIT_S)
        for number in range(asked.warm):
            await _life(client, directory, f"warm-{number}", asked.runtime)
        await client.call(TASK_V2.shutdown, TASK_V2.shutdown.request())
        client.close()
    pid = int(await process.stdout.readline())
    try:
        found: list[tuple[str, Counter[str], int]] = []

        def note(stage: str) -> None:
            found.append((stage, own_kib(pid), pss_kib(pid)))

        note("forked")
        process.stdin.write(b"g")
        where = f"unix://{directory}/shim.s"
        await _idle(pid)
        note("listening")
        client = await Client.connect(where, timeout_s=LIMIT_S)
        await client.call(TASK_V2.connect, TASK_V2.connect.request(id="c"))
        note("first connection")
        for number in range(asked.lives):
            await _life(client, directory, f"life-{number}", asked.runtime)
            await _idle(pid)
            if number == 0:
                note("one life")
        note(f"{asked.lives} lives")
        await client.call(TASK_V2.shutdown, TASK_V2.shutdown.request())
        client.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


async def _idle(pid: int) -> None:
    """Wait until a process sleeps in its loop, and has reaped its children."""
    path = Path(f"/proc/{pid}")
    async with asyncio.timeout(LIMIT_S):
        while (path / "wchan").read_text() not in {"ep_poll", "do_epoll_wait", "0"} or (
            path / f"task/{pid}/children"
        ).read_text().split():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)


async def _life(client: Any, directory: Path, name: str, runtime: str) -> None:
    from dunnage.api import typeurl
    from dunnage.api.runc_options_pb2 import Options
    from dunnage.api.services import TASK_V2

    bundle = directory / name
    (bundle / "rootfs").mkdir(parents=True)
    kinds = ("pid", "ipc", "uts", "mount")
    config = {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/"},
        "root": {"path": str(directory / "rootfs")},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/dunnage-{directory.name}-{name}",
            "namespaces": [{"type": kind} for kind in kinds],
        },
    }
    (bundle / "config.json").write_text(json.dumps(config))

    async def call(method: str, **fields: Any) -> Any:
        found = getattr(TASK_V2, method)
        request = found.request(id=name, **fields)
        return await client.call(found, request, timeout_s=LIMIT_S)

    await call(
        "create",
        bundle=str(bundle),
        options=typeurl.pack(Options(binary_name=runtime)),
    )
    waiting = asyncio.create_task(call("wait"))
    await call("start")
    await call("state")
    await waiting
    await call("delete")


def _clear_up(state: Path, runtime: str) -> None:
    """Remove the containers that a failure has left, and the runtime's directory."""
    if state.is_dir():
        for each in state.iterdir():
            argv = [runtime, "--root", str(state), "delete", "--force", each.name]
            subprocess.run(argv, check=False)
        shutil.rmtree(state, ignore_errors=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loop", choices=("lean", "stock"), default="lean")
    parser.add_argument("--fork", choices=("raw", "hooks"), default="raw")
    parser.add_argument("--warm", type=int, default=20, help="lives before the fork")
    parser.add_argument("--cold", action="store_const", const=0, dest="warm")
    parser.add_argument("--lives", type=int, default=10)
    parser.add_argument("--runtime", default="runc")
    parser.add_argument("--parent", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one object instead")
    given = parser.parse_args()
    asked = Asked(given.loop, given.fork, given.warm, given.lives, given.runtime)
    if given.parent:
        parent(asked, given.parent)
        return
    with tempfile.TemporaryDirectory(prefix="dirty-") as directory:
        try:
            found = asyncio.run(measure(asked, Path(directory)))
        finally:
            _clear_up(
                Path("/run/containerd/runc") / Path(directory).name, given.runtime
            )
    if given.json:
        stages = {stage: {**own, "PSS": pss} for stage, own, pss in found}
        print(json.dumps({**asked._asdict(), "KiB": stages}))
        return
    print(f"private KiB; {asked}")
    kinds = sorted({kind for _, own, _ in found for kind in own})
    print(f"{'':26}", *(f"{stage:>17}" for stage, _, _ in found))
    for kind in kinds:
        print(f"{kind:26}", *(f"{own[kind]:17}" for _, own, _ in found))
    print(f"{'all':26}", *(f"{own.total():17}" for _, own, _ in found))
    print(f"{'PSS (2 processes)':26}", *(f"{pss:17}" for _, _, pss in found))


if __name__ == "__main__":
    main()
