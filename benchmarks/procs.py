"""What /proc says of one shim binary: which processes are its, what they take."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

_FORK_SERVER: Final = (b"dunnage-forkserver", b"dunnage.shim.forkserver")


@dataclass(frozen=True, slots=True)
class Use:
    """What some processes take together."""

    processes: int
    pss_kib: int
    private_kib: int


@dataclass(frozen=True, slots=True)
class Work:
    """What the threads of some processes have done up to now."""

    cpu_ns: int
    wakeups: int
    """How often a thread has gone to sleep, and so woke up before."""


Threads: TypeAlias = dict[str, Work]
"""By their place in /proc."""


def family(namespace: str, *, place: str = "") -> list[int]:
    """Return the processes that belong to the shims of a namespace.

    These are: who has the namespace in its command line; its ancestors, up to whoever
    is also an ancestor of ours; its descendants that are in no container; and fork
    servers that name ``place`` (the directory that they serve in).
    """
    above = set(_ancestors(os.getpid()))
    lines = {pid: _cmdline(pid) for pid in _pids()}
    found = {pid for pid, line in lines.items() if namespace.encode() in line}
    if place:
        found |= {
            pid
            for pid, line in lines.items()
            if place.encode() in line and any(name in line for name in _FORK_SERVER)
        }
    for pid in list(found):
        found.update(set(_ancestors(pid)) - above)
    home = _home(os.getpid())
    for pid in lines:
        if found.intersection(_ancestors(pid)) and _home(pid) == home:
            found.add(pid)
    return sorted(found - above)


def shim_of(namespace: str, id_: str) -> int | None:
    """Return the shim that was started for a container."""
    for pid in _pids():
        words = _cmdline(pid).split(b"\0")
        if namespace.encode() in words and id_.encode() in words:
            return pid
    return None


def use(pids: Iterable[int]) -> Use:
    """Return the memory that processes take together; of the shared, their part."""
    count = pss = private = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            sizes = _sizes(Path(f"/proc/{pid}/smaps_rollup").read_text())
            count += 1
            pss += sizes["Pss"]
            private += sizes["Private_Clean"] + sizes["Private_Dirty"]
    return Use(count, pss, private)


def work(pids: Iterable[int]) -> Threads:
    """Return what processes have done, thread by thread."""
    found: Threads = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                cpu_ns = int((thread / "schedstat").read_text().split()[0])
                status = (thread / "status").read_text()
                wakeups = _field(status, "voluntary_ctxt_switches")
                found[str(thread)] = Work(cpu_ns, wakeups)
    return found


def between(before: Threads, after: Threads) -> Work:
    """Return what was done meanwhile; of a thread that ended, nothing is known."""
    nothing = Work(0, 0)
    done = [(before.get(name, nothing), now) for name, now in after.items()]
    return Work(
        sum(now.cpu_ns - then.cpu_ns for then, now in done),
        sum(now.wakeups - then.wakeups for then, now in done),
    )


def await_end(pid: int, limit_s: float) -> bool:
    """Wait until a process is dead; return whether it is."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], limit_s)[0])
    finally:
        os.close(pidfd)


def settle(namespace: str, place: str, limit_s: float) -> list[int]:
    """Wait until a family changes no more (helpers leave); return it."""
    end = time.monotonic() + limit_s
    before: list[int] = []
    while (now := family(namespace, place=place)) != before:
        before = now
        if time.monotonic() > end:
            break
        time.sleep(0.3)
    return before


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _home(pid: int) -> tuple[str, str]:
    """Return what tells a container's process from a shim's helper."""
    with contextlib.suppress(OSError):
        spaces = Path(f"/proc/{pid}/ns")
        return os.readlink(spaces / "pid"), os.readlink(spaces / "mnt")
    return "", ""


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid := _parent(pid):
        found.append(pid)
    return found


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])
    return 0


def _sizes(rollup: str) -> dict[str, int]:
    lines = (line.split() for line in rollup.splitlines()[1:])
    return {words[0].rstrip(":"): int(words[1]) for words in lines}


def _field(status: str, name: str) -> int:
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value)
    return 0
