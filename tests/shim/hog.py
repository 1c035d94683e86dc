"""Who takes all memory, and limits that it meets."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.machine import IS_CGROUP_V2, cgroups_named

from .harness import spec

HOG = ["tail", "/dev/zero"]
"""Never finds the end of a line."""
LIMIT_BYTES = 16 << 20
V1_LIMITS = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
V2_LIMITS = ("memory.max", "memory.swap.max")


def limited(
    args: list[str], limit: int = LIMIT_BYTES, below: str = ""
) -> dict[str, Any]:
    """Return a spec with a limit of memory, and none of swap; 0: without."""
    config = spec(args)
    linux = config["linux"]
    linux["cgroupsPath"] = f"{below}{linux['cgroupsPath']}"
    if limit:
        linux["resources"] = {"memory": {"limit": limit, "swap": limit}}
    return config


@contextlib.contextmanager
def a_pod(limit: int = LIMIT_BYTES) -> Iterator[str]:
    """Make a cgroup with a limit, for containers in it; yield its path."""
    path = f"/dunnage-test-{secrets.token_hex(4)}"
    top = Path("/sys/fs/cgroup")
    if IS_CGROUP_V2:
        (top / "cgroup.subtree_control").write_text("+memory")
    memory = (top if IS_CGROUP_V2 else top / "memory") / path[1:]
    memory.mkdir()
    files = V2_LIMITS if IS_CGROUP_V2 else V1_LIMITS
    values = (limit, 0 if IS_CGROUP_V2 else limit)
    try:
        for name, value in zip(files, values, strict=True):
            (memory / name).write_text(str(value))
        yield path
    finally:
        for found in cgroups_named(path):
            with contextlib.suppress(OSError):
                found.rmdir()
