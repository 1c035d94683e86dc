"""Many short lives at once, through real shims, and what is wrong with what was said.

A `Load` drives one shim binary with one runtime, each container in a shim of its own or
as a member of a pod, so many at a time.
What the calls answer is kept, and held against the events when all is over: the stream
must be whole, in order, and tell the same; nothing may be left behind.
What was written to a fifo must come out of it, whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from tests.machine import cgroups_named, pids_with
from tests.shim.harness import OURS, Shim, spec, until

from dunnage.api.times import nanoseconds
from dunnage.conformance.decoder import decode
from dunnage.conformance.oracle import judge
from dunnage.conformance.said import Answered, Kind
from dunnage.errors import FailedPrecondition, Unknown

_Live: TypeAlias = Callable[[str, str | None], Awaitable[None]]

GROUP: Final = "io.containerd.runc.v2.group"
POD_SIZE: Final = 25
EXECS_PER_CONTAINER: Final = 20
RACING_EXECS: Final = 3
RACE_S: Final = 0.3
"""About as long as three starts side by side take."""
OF_A_DELETED: Final = frozenset(
    {"address", "config.json", "dunnage-exit.json", "init.pid", "log", "log.json"}
    | {"options.json", "rootfs", "runtime"}
)
"""What a bundle may hold when its container was deleted; `rootfs` is empty."""


@dataclass(frozen=True)
class Amount:
    """How much of each kind of life."""

    short: int
    """Containers whose init ends at once."""
    execs: int
    """Execs that end at once."""
    dying: int
    """Inits that die while execs start; so many in an own pid namespace, and so many in
    the host's."""
    at_a_time: int = 8


@dataclass
class Load:
    """One run of everything, with one runtime."""

    directory: Path
    runtime: str
    pods: bool
    amount: Amount
    seed: int
    progress: Callable[[str], None] = lambda _: None
    binary: Path = OURS
    answers: list[Answered] = field(default_factory=list)
    refused: int = 0
    """Execs whose start was refused or failed, as init was dying."""
    events: int = 0

    async def run(self) -> list[str]:
        """Do it all; return what is wrong, each in a line."""
        self._random = random.Random(self.seed)
        self._pids: dict[str, int] = {}
        self._cgroups: list[str] = []
        self._faults: list[str] = []
        async with Shim(self.directory, self.binary, self.runtime) as shim:
            self._shim = shim
            await self._each("short", self.amount.short, self._short)
            hosts = -(-self.amount.execs // EXECS_PER_CONTAINER)
            await self._each("execs", hosts, self._execs)
            await self._each("dying", self.amount.dying, self._dying)
            await self._each("dying-shared", self.amount.dying, self._dying_shared)
            return await self._verdict()

    # -- lives

    async def _short(self, id_: str, group: str | None) -> None:
        """An init that ends at once, often before its start is answered."""
        await self._begin(id_, ["true"], group)
        await self._end(id_)

    async def _execs(self, id_: str, group: str | None) -> None:
        """Execs that end at once, side by side in one container."""
        await self._begin(id_, ["sleep", "1000"], group)
        names = [f"e{n}" for n in range(min(EXECS_PER_CONTAINER, self.amount.execs))]
        await _at_a_time(self.amount.at_a_time, (self._exec(id_, e) for e in names))
        await self._shim.call(id_, "kill", signal=9)
        await self._end(id_)

    async def _exec(self, id_: str, exec_id: str) -> None:
        status = self._random.randrange(3)
        text = f"{id_} {exec_id} {status}"
        args = ["sh", "-c", f"echo {text}; exit {status}"]
        with _fifo(self.directory / f"{id_}-{exec_id}") as (path, fd):
            await self._shim.exec(id_, exec_id, args, stdout=path)
            started = await self._shim.call(id_, "start", exec_id=exec_id)
            said = await self._shim.call(id_, "wait", exec_id=exec_id)
            if said.exit_status != status:
                self._faults.append(f"{id_}/{exec_id}: {said}, not {status}")
            await self._delete(id_, exec_id, started.pid)
            # All of it was there when Delete was answered: it is in the fifo.
            if (written := _read(fd)) != f"{text}\n":
                self._faults.append(f"{id_}/{exec_id}: wrote {written!r}, not {text}")

    async def _dying(self, id_: str, group: str | None) -> None:
        """An init that dies while execs start."""
        await self._dies(id_, group, spec(["sleep", "1000"]))

    async def _dying_shared(self, id_: str, group: str | None) -> None:
        """The same where no pid namespace ends with its init."""
        config = spec(["sleep", "1000"])
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [s for s in spaces if s["type"] != "pid"]
        await self._dies(id_, group, config)

    async def _dies(self, id_: str, group: str | None, config: dict[str, Any]) -> None:
        await self._begin(id_, config, group)
        execs = {f"e{n}": ["sleep", "1000"] for n in range(RACING_EXECS)}
        execs["e0"] = ["true"]
        for exec_id, args in execs.items():
            await self._shim.exec(id_, exec_id, args)
        # Anywhere from before the runtime's first step to after its last.
        delay_s = self._random.uniform(0, RACE_S)
        async with asyncio.TaskGroup() as group_:
            starts = {e: group_.create_task(self._try_start(id_, e)) for e in execs}
            await asyncio.sleep(delay_s)
            await self._shim.call(id_, "kill", signal=9)
        await self._shim.call(id_, "wait")
        for exec_id, start in starts.items():
            await self._delete(id_, exec_id, start.result())
        await self._end(id_)

    async def _try_start(self, id_: str, exec_id: str) -> int | None:
        try:
            started = await self._shim.call(id_, "start", exec_id=exec_id)
        except (FailedPrecondition, Unknown):  # init is dead, says the shim, or runc
            self.refused += 1
            return None
        return int(started.pid)

    # -- steps

    async def _each(self, kind: str, count: int, live: _Live) -> None:
        """Have ``count`` containers live, each in a shim of its own or in pods."""
        names = [f"{kind}-{n}" for n in range(count)]
        if not self.pods:
            await self._together(kind, live, names, None)
            return
        for first in range(0, count, POD_SIZE):
            pod = f"{kind}-pod-{first}"
            await self._begin(pod, ["sleep", "1000"], pod)
            members = names[first : first + POD_SIZE]
            await self._together(kind, live, members, pod)
            await self._shim.call(pod, "kill", signal=9)
            await self._end(pod)

    async def _together(
        self, kind: str, live: _Live, names: list[str], pod: str | None
    ) -> None:
        began = time.monotonic()
        lives = (self._tell(live, id_, pod) for id_ in names)
        await _at_a_time(self.amount.at_a_time, lives)
        self.progress(f"{kind}: {len(names)} in {time.monotonic() - began:.1f} s")

    async def _tell(
        self,
        live: _Live,
        id_: str,
        pod: str | None,
    ) -> None:
        """Live, and turn what fails into a fault: the others go on."""
        try:
            await live(id_, pod)
        except Exception as error:
            self._faults.append(f"{id_}: {error!r} · {self._shim.log(id_)}")

    async def _begin(
        self, id_: str, what: list[str] | dict[str, Any], group: str | None
    ) -> None:
        config = spec(what) if isinstance(what, list) else what
        if group:
            config["annotations"] = {GROUP: group}
        await self._shim.up(id_, config=config)
        self._cgroups.append(config["linux"]["cgroupsPath"])
        created = await self._shim.call(id_, "create")
        started = await self._shim.call(id_, "start")
        if created.pid != started.pid:
            self._faults.append(f"{id_}: pid {created.pid}, then {started.pid}")
        self._pids[id_] = started.pid

    async def _end(self, id_: str) -> None:
        """Bury a container whose init ends, as a daemon does."""
        said = await self._shim.call(id_, "wait")
        await self._delete(id_, "", self._pids[id_])
        last = self.answers[-1]
        if last.exit_status != said.exit_status:
            self._faults.append(f"{id_}: wait {said.exit_status}, then {last}")
        await self._shim.call(id_, "shutdown")
        bundle = self._shim.bundles / id_
        left = [*bundle.iterdir(), *(bundle / "rootfs").iterdir()]
        self._faults += [f"left: {p}" for p in left if p.name not in OF_A_DELETED]
        self._shim.bury(id_)

    async def _delete(self, id_: str, exec_id: str, pid: int | None) -> None:
        deleted = await self._shim.call(id_, "delete", exec_id=exec_id)
        lived = pid is not None
        self.answers.append(
            Answered(
                id_,
                exec_id,
                was_started=lived,
                pid=pid or 0,
                exit_status=deleted.exit_status if lived else None,
                exited_at_ns=nanoseconds(deleted.exited_at) if lived else None,
                was_deleted=True,
            )
        )

    # -- the verdict

    async def _verdict(self) -> list[str]:
        deletes = sum(1 for answer in self.answers if answer.was_deleted)
        left = await self._left()
        stream = [decode(said.SerializeToString()) for said in self._shim.events]
        self.events = len(stream)
        said_deletes = sum(said.kind is Kind.DELETE for said in stream)
        if said_deletes != deletes:
            self._faults.append(f"{said_deletes} deletes said, {deletes} answered")
        faults = judge(stream, answers=self.answers, is_whole=True)
        return [*self._faults, *map(str, faults), *left]

    async def _left(self) -> list[str]:
        """Wait until nothing is left; return what still is at the limit.

        A cgroup that is gone had no process: no container's is left either.
        """
        left: list[str] = []

        def is_clean() -> bool:
            left[:] = [f"process {pid}" for pid in pids_with(self._shim.namespace)]
            left.extend(str(p) for c in self._cgroups for p in cgroups_named(c))
            left.extend(self._shim.strays())
            return not left

        with contextlib.suppress(TimeoutError):
            await until(is_clean)
        return [f"left behind: {each}" for each in left]


@contextlib.contextmanager
def _fifo(path: Path) -> Iterator[tuple[str, int]]:
    """Make a fifo and hold it open; one that is left behind would be a fault."""
    os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield str(path), fd
    finally:
        os.close(fd)
        path.unlink()


def _read(fd: int) -> str:
    with contextlib.suppress(BlockingIOError):
        return os.read(fd, 1 << 16).decode()
    return ""


async def _at_a_time(limit: int, lives: Iterator[Coroutine[Any, Any, None]]) -> None:
    """Live ``lives``, so many side by side; none is begun that will not be lived."""

    async def one_after_another() -> None:
        for life in lives:
            await life

    async with asyncio.TaskGroup() as group:
        for _ in range(limit):
            group.create_task(one_after_another())
