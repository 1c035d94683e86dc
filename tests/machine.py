"""What tests look at on the machine itself, to see that nothing is left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def pids_with(text: str) -> list[int]:
    """Return the pids of the processes whose command line holds ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


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
