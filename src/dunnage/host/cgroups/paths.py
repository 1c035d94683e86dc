"""Where a container's cgroup is: from the spec's words to directories.

Must not know: what is in a cgroup.
"""

from __future__ import annotations

import os
from typing import Final

_MOUNTS: Final = "/proc/self/mountinfo"
_SLICE: Final = ".slice"


def path_in_spec(cgroups_path: str, *, systemd: bool) -> str | None:
    """Return the path, from the root of a hierarchy, that ``cgroupsPath`` stands for.

    None where it depends on the runtime: a relative path, or none at all.

    Args:
        cgroups_path: with systemd's driver ``slice:prefix:name``, else a path.
        systemd: whether that driver is used (runc's and crun's ``--systemd-cgroup``).
    """
    if not systemd:
        return os.path.normpath(cgroups_path) if cgroups_path[:1] == "/" else None
    slice_, _, unit = cgroups_path.partition(":")
    prefix, _, name = unit.partition(":")
    if not name:
        return None
    if not name.endswith(_SLICE):
        name = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return f"{_expanded(slice_ or 'system.slice')}/{name}"


def _expanded(slice_: str) -> str:
    """Return the path of a slice: ``a-b.slice`` is in ``a.slice``."""
    names = slice_.removesuffix(_SLICE).split("-")
    if not any(names):
        return ""  # the root slice is called "-.slice"
    parts = ("-".join(names[: count + 1]) for count in range(len(names)))
    return "".join(f"/{part}{_SLICE}" for part in parts)


def directories(path: str) -> list[str]:
    """Return where the cgroup ``path`` is, or would be, in each mounted hierarchy.

    Raises:
        OSError: /proc is not there.
    """
    found = []
    with open(_MOUNTS, "rb") as file:
        for line in file:
            where, _, kind = line.partition(b" - ")
            if kind.startswith((b"cgroup ", b"cgroup2 ")):
                mount = os.fsdecode(where.split(b" ")[4])
                found.append(f"{mount}{path}")
    return found
