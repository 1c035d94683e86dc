"""Streams as a shim without fault says them, to plant faults in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dunnage.conformance.said import Kind, Said

CONTAINER = "c"
SECOND_NS = 1_000_000_000


def say(kind: Kind, id_: str = "", pid: int = 0, status: int = 0) -> Said:
    """Return one event of the container; `stamped` gives it its times."""
    return Said(
        kind,
        CONTAINER,
        id_,
        pid,
        status,
        exited_at_ns=1 if pid and kind in {Kind.EXIT, Kind.DELETE} else None,
        topic=f"/tasks/{kind}",
        namespace="n",
    )


def stamped(stream: Iterable[Said], first: int = 1) -> list[Said]:
    """Give the events times, a second apart."""
    return [
        replace(said, at_ns=(first + at) * SECOND_NS) for at, said in enumerate(stream)
    ]


# What every kind does in one life: an exec that lived and one that never did.
FULL = stamped(
    [
        say(Kind.CREATE, pid=100),
        say(Kind.START, pid=100),
        say(Kind.EXEC_ADDED, "e"),
        say(Kind.EXEC_ADDED, "never"),
        say(Kind.EXEC_STARTED, "e", 101),
        say(Kind.PAUSED),
        say(Kind.RESUMED),
        say(Kind.CHECKPOINTED),
        say(Kind.OOM),
        say(Kind.EXIT, "e", 101, 4),
        say(Kind.EXIT, CONTAINER, 100, 3),
        say(Kind.DELETE, "e", 101, 4),
        say(Kind.DELETE, "never"),
        say(Kind.DELETE, pid=100, status=3),
    ]
)

# Deleted without a start: the runtime kills what was only created.
UNSTARTED = stamped(
    [
        say(Kind.CREATE, pid=100),
        say(Kind.EXIT, CONTAINER, 100, 137),
        say(Kind.DELETE, pid=100, status=137),
    ]
)

# A restored task has no process before its start.
RESTORED = stamped(
    [
        say(Kind.CREATE),
        say(Kind.START, pid=100),
        say(Kind.EXIT, CONTAINER, 100, 0),
        say(Kind.DELETE, pid=100),
    ]
)

# The reference says no exit of what was never started.
SILENT = stamped([say(Kind.CREATE, pid=100), say(Kind.DELETE, pid=100)])

# An OOM kill can hit before the start is answered.
EARLY_OOM = stamped(
    [
        say(Kind.CREATE, pid=100),
        say(Kind.OOM),
        say(Kind.START, pid=100),
        say(Kind.EXIT, CONTAINER, 100, 137),
        say(Kind.DELETE, pid=100, status=137),
    ]
)

# The id of a deleted exec is free again, and so is that of a deleted task.
AGAIN = stamped(
    [
        say(Kind.CREATE, pid=100),
        say(Kind.START, pid=100),
        *2
        * [
            say(Kind.EXEC_ADDED, "e"),
            say(Kind.EXEC_STARTED, "e", 101),
            say(Kind.EXIT, "e", 101),
            say(Kind.DELETE, "e", 101),
        ],
        say(Kind.EXIT, CONTAINER, 100, 0),
        say(Kind.DELETE, pid=100),
        say(Kind.CREATE, pid=200),
        say(Kind.EXIT, CONTAINER, 200, 0),
        say(Kind.DELETE, pid=200),
    ]
)

GOOD = {
    "full": FULL,
    "unstarted": UNSTARTED,
    "restored": RESTORED,
    "silent": SILENT,
    "early oom": EARLY_OOM,
    "again": AGAIN,
}
