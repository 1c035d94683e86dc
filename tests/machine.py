"""What tests look at on the machine itself, to see that nothing is left."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from dunnage.bootstrap import warm

IS_CGROUP_V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
"""Whether there is nothing but v2; what is hybrid is v1."""


def pids_with(text: str) -> list[int]:
    """Return the pids of the processes whose command line holds ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def forkservers(directory: Path) -> list[int]:
    """Return the pids of the fork servers below a directory, their spares with them."""
    return pids_with(f"dunnage-forkserver\0{directory}/")


def end_forkservers(directory: Path) -> None:
    """Kill the fork servers below a directory, and wait until they are gone."""
    while pids := forkservers(directory):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                try:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    select.select([fd], [], [], 10)
                finally:
                    os.close(fd)


@contextlib.contextmanager
def own_forkservers() -> Iterator[None]:
    """Have fork servers of our own, by the environment; they end with the context."""
    directory = Path(tempfile.mkdtemp(prefix="dunnage-forkserver-"))
    os.environ[warm.DIRECTORY_VARIABLE] = str(directory)
    try:
        yield
    finally:
        del os.environ[warm.DIRECTORY_VARIABLE]
        end_forkservers(directory)
        shutil.rmtree(directory)


def cgroups_named(path: str) -> list[Path]:
    """Return the cgroups at ``path`` below the mount of each hierarchy, v1 and v2.

    Only real ones: where the unified hierarchy is hidden, crun makes plain directories
    in its place.
    """
    found: dict[tuple[int, int], Path] = {}  # a hierarchy may be mounted twice
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where, _, kind = line.partition(" - ")
        if kind.split()[0] in {"cgroup", "cgroup2"}:
            group = Path(where.split()[4]) / path.lstrip("/")
            with contextlib.suppress(OSError):
                status = group.stat()
                found[status.st_dev, status.st_ino] = group
    return list(found.values())


def with_freezer(directories: Iterable[str]) -> str:
    """Return that one of a cgroup's directories with which it is frozen, v1 or v2."""
    found = list(directories)
    (only,) = [path for path in found if "/freezer/" in path] or found
    return only
