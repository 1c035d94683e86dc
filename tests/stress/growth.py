"""Lives one after another in one shim, and what they leave in its process.

The shim is that of a container which lives throughout; the others are created in it.
Each life is a create, a start, an exit, a delete; of five, one has an exec with output,
one an exec at a terminal, one an exec that cannot start, one is of a container that
cannot be created at first, and beside one somebody's connection ends in mid-frame.

It is a shim as users have it, a fork of a warm parent, when it is at rest.
Or one that is started cold, and whose objects are counted inside it, by a module that
its interpreter imports when it starts: after a collection of garbage, by type, with all
that is in its collections (an entry left in a map, a lock, an event in a queue is an
object more).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.shim.altered import altered
from tests.shim.harness import Shim, proc_status, spec, until
from tests.shim.test_strangers import wait_frame
from tests.shim.test_terminal import terminal_spec

from dunnage.errors import Unknown

HOST: Final = "host"
AT_A_TIME: Final = 8
KINDS: Final = 5
PLAIN, OUTPUT, TERMINAL, NO_EXEC, NO_CREATE = range(KINDS)
MEMORY_BYTES: Final = 1 << 20
"""What memory may differ by, however many lives: an allocator's pools, torn by use.
Measured, warm: 0.4 MiB in the first 500 lives after 60, 0.2 in the next 2500."""
STILL_S: Final = 2.0
"""A warm shim gives memory back a second after something has happened last."""
EVENTS_OF_A_LIFE: Final = 4
EVENTS_OF_AN_EXEC: Final = {OUTPUT: 4, TERMINAL: 4, NO_EXEC: 2}


_CENSUS: Final = """
import collections, gc, os, signal
def count(*_):
    gc.collect()
    kinds = collections.Counter()
    for each in gc.get_objects():
        kinds[type(each).__name__] += 1
        if isinstance(each, (dict, list, set, tuple, collections.deque)):
            kinds["item of a " + type(each).__name__] += len(each)
    path = os.path.dirname(__file__) + "/census"
    with open(path + ".new", "w") as file:
        for kind, number in kinds.items():
            print(number, kind, file=file)
    os.rename(path + ".new", path)
signal.signal(signal.SIGUSR2, count)
"""


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    anonymous_bytes: int
    objects: dict[str, int]
    """How many there are of each type, and items in collections."""
    fds: tuple[tuple[str, int], ...]
    """How many there are of each kind, by what they lead to."""
    children: int
    threads: int
    files: tuple[str, ...]
    """What the runtime keeps, and what is in the bundles' directory."""


@contextlib.asynccontextmanager
async def a_shim(
    directory: Path, runtime: str, *, counted: bool
) -> AsyncIterator[Growth]:
    """Run a shim with its long-lived container; end it, and see that nothing is left.

    Args:
        directory: for all that is needed.
        runtime: what runs the containers.
        counted: whether objects are counted in it; it is started cold then.

    Raises:
        AssertionError: something is left.
    """
    shim = Shim(directory, runtime=runtime)
    if counted:
        census = directory / "census"
        census.mkdir()
        (census / "sitecustomize.py").write_text(_CENSUS)
        shim.environment = {"PYTHONPATH": str(census)}
        # Not by way of the launcher: it isolates Python from its environment.
        shim.binary = altered(directory)
    async with shim:
        growth = Growth(shim, counted=counted)
        await growth.begin()
        yield growth
        await growth.end()
        left = await shim.gone(HOST)
        assert not left, left


def grown(before: Footprint, after: Footprint, lives: int) -> list[str]:
    """Name what is more after so many ``lives`` than before."""
    faults = []
    more = after.anonymous_bytes - before.anonymous_bytes
    if more > MEMORY_BYTES:
        faults.append(f"memory: {more} bytes more")
    for kind, count in after.objects.items():
        # A few are those of calls: a task, a buffer, a timer.
        if (extra := count - before.objects.get(kind, 0)) > lives / 10:
            faults.append(f"objects: {extra} more of {kind}")
    for name in ("fds", "children", "threads", "files"):
        was, now = getattr(before, name), getattr(after, name)
        if was != now:
            faults.append(f"{name}: {was}, now {now}")
    return faults


class Growth:
    """One shim with its long-lived container; lives are led in it."""

    def __init__(self, shim: Shim, *, counted: bool) -> None:
        self._shim = shim
        self._is_counted = counted
        self._lived = 0
        self._pid = 0
        self._expected = 2

    async def begin(self) -> None:
        """Start the container that the shim is there for."""
        client = await self._shim.up(HOST, ["sleep", "1000000"])
        await self._shim.call(HOST, "create")
        await self._shim.call(HOST, "start")
        self._pid = (await self._shim.call(HOST, "connect")).shim_pid
        self._client = client

    async def lives(
        self, count: int, progress: Callable[[int], None] = lambda _: None
    ) -> Footprint:
        """Lead ``count`` lives; return what the shim then holds, all being said."""
        names = iter(range(self._lived, self._lived + count))
        self._lived += count

        async def one_after_another() -> None:
            for number in names:
                await self._life(number)
                if number % 500 == 0:
                    progress(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(one_after_another())
        await self._shim.wait_events(self._expected)
        objects = await self._census() if self._is_counted else {}
        return await self._settled(objects)

    async def end(self) -> None:
        """End the container that the shim is there for, and the shim."""
        await self._shim.call(HOST, "kill", signal=9)
        await self._shim.call(HOST, "wait")
        await self._shim.call(HOST, "delete")
        await self._shim.call(HOST, "shutdown")
        self._shim.bury(HOST)

    async def _life(self, number: int) -> None:
        id_, kind = f"life-{number}", number % KINDS
        has_exec = kind in EVENTS_OF_AN_EXEC
        config = terminal_spec(["sleep", "1000"]) if has_exec else spec(["true"])
        bundle = self._shim.member(id_, HOST, config)
        if kind == PLAIN:
            self._break_off()
        if kind == NO_CREATE:
            with contextlib.suppress(Unknown):
                await self._shim.call(id_, "create", rootfs=[{"type": "nosuchfs"}])
        await self._shim.call(id_, "create", terminal=has_exec)
        await self._shim.call(id_, "start")
        if has_exec:
            await self._exec(id_, bundle / "out", kind)
            await self._shim.call(id_, "kill", signal=9)
        await self._shim.call(id_, "wait")
        await self._shim.call(id_, "delete")
        self._shim.drop(id_)
        shutil.rmtree(bundle)
        self._expected += EVENTS_OF_A_LIFE + EVENTS_OF_AN_EXEC.get(kind, 0)

    async def _exec(self, id_: str, path: Path, kind: int) -> None:
        os.mkfifo(path)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        args = ["/no/such"] if kind == NO_EXEC else ["echo", "x"]
        try:
            fields = {"stdout": str(path), "terminal": kind == TERMINAL}
            await self._shim.exec(id_, "e", args, **fields)
            if kind == NO_EXEC:
                with contextlib.suppress(Unknown):
                    await self._shim.call(id_, "start", exec_id="e")
            else:
                await self._shim.call(id_, "start", exec_id="e")
                await self._shim.call(id_, "wait", exec_id="e")
            await self._shim.call(id_, "delete", exec_id="e")
            if kind != NO_EXEC:
                assert os.read(fd, 100).split() == [b"x"]
        finally:
            os.close(fd)

    def _break_off(self) -> None:
        """Connect, ask, and leave in the midst of a second question."""
        where = (self._shim.bundles / HOST / "address").read_text()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(where.removeprefix("unix://"))
            sock.sendall(wait_frame(1, id_=HOST) + wait_frame(3)[:-1])

    async def _census(self) -> dict[str, int]:
        path = self._shim.directory / "census/census"
        path.unlink(missing_ok=True)
        os.kill(self._pid, signal.SIGUSR2)
        await until(path.exists)
        lines = (line.split(" ", 1) for line in path.read_text().splitlines())
        return {kind: int(number) for number, kind in lines}

    async def _settled(self, objects: dict[str, int]) -> Footprint:
        """Take the footprint when the last runtime is reaped, and stdio closed."""
        taken, since = self._footprint(objects), time.monotonic()
        still_s = 0.0 if self._is_counted else STILL_S

        def is_still() -> bool:
            nonlocal taken, since
            before, taken = taken, self._footprint(objects)
            is_same = taken.children == 1 and before.fds == taken.fds
            if not self._is_counted:
                is_same = is_same and before == taken
            now = time.monotonic()
            since = since if is_same else now
            return is_same and now - since >= still_s

        with contextlib.suppress(TimeoutError):  # it will be seen in the footprint
            await until(is_still)
        return taken

    def _footprint(self, objects: dict[str, int]) -> Footprint:
        proc = Path(f"/proc/{self._pid}")
        rollup = (proc / "smaps_rollup").read_text()
        anonymous = re.search(r"^Anonymous: +(\d+) kB", rollup, re.MULTILINE)
        assert anonymous, rollup
        leads = []
        for fd in (proc / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                leads.append(re.sub(r"\d+", "N", os.readlink(fd)))
        state = Path("/run/containerd/runc") / self._shim.namespace
        kept = [*state.iterdir(), *self._shim.bundles.iterdir()]
        return Footprint(
            int(anonymous[1]) * 1024,
            objects,
            tuple(sorted(Counter(leads).items())),
            len((proc / f"task/{self._pid}/children").read_text().split()),
            int(proc_status(self._pid)["Threads"]),
            tuple(sorted(map(str, kept))),
        )
