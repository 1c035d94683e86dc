"""The kernel's own trace of what runs when: no tracer slows down what it looks at.

It takes place in an instance of its own, which nobody else's tracing meets.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_EVENTS: Final = ("switch", "process_fork", "process_exec", "process_exit")
_LINE: Final = re.compile(
    r"-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\s+\S+\s+"
    r"(?P<at>\d+\.\d+): (?P<event>\w+): (?P<rest>.*)"
)


@dataclass
class Lane:
    """One thread: when it was there, and when it had a processor (s, monotonic)."""

    pid: int
    name: str
    parent: int = 0
    born: float = 0.0
    died: float | None = None
    ran: list[tuple[float, float]] = field(default_factory=list)
    execs: list[tuple[float, str]] = field(default_factory=list)


@contextlib.contextmanager
def instance(directory: Path) -> Iterator[Path]:
    """Set an instance of the kernel's tracing up; it is traced while in the block.

    Args:
        directory: an empty directory of our own, to mount tracefs on.
    """
    directory.mkdir()
    subprocess.run(["mount", "-t", "tracefs", "none", directory], check=True)
    mine = directory / "instances" / f"dunnage-{directory.parent.name}"
    try:
        mine.mkdir()
        (mine / "trace_clock").write_text("mono")
        (mine / "buffer_size_kb").write_text("16384")
        for event in _EVENTS:
            (mine / f"events/sched/sched_{event}/enable").write_text("1")
        yield mine
    finally:
        with contextlib.suppress(OSError):
            mine.rmdir()
        subprocess.run(["umount", directory], check=False)


def read(mine: Path) -> str:
    """Stop, and return what was traced."""
    (mine / "tracing_on").write_text("0")
    return (mine / "trace").read_text(errors="replace")


def lanes(trace: str) -> dict[int, Lane]:
    """Return the threads of a trace, by their numbers."""
    found: dict[int, Lane] = {}
    running: dict[str, tuple[int, float]] = {}

    def lane(pid: int, name: str) -> Lane:
        return found.setdefault(pid, Lane(pid, name))

    for line in trace.splitlines():
        match = _LINE.search(line)
        if not match:
            continue
        at, told = float(match["at"]), _fields(match["rest"])
        pid = int(match["pid"])
        match match["event"]:
            case "sched_process_fork":
                child = int(told["child_pid"])
                born = lane(child, told["child_comm"])
                born.parent, born.born = pid, at
            case "sched_process_exec":
                program = _program(told["filename"])
                lane(pid, program).execs.append((at, program))
                found[pid].name = program
            case "sched_process_exit":
                lane(pid, told.get("comm", "")).died = at
            case "sched_switch":
                before = running.get(match["cpu"])
                if before and before[0] == int(told["prev_pid"]):
                    lane(before[0], told["prev_comm"]).ran.append((before[1], at))
                running[match["cpu"]] = (int(told["next_pid"]), at)
            case _:
                pass
    found.pop(0, None)
    return found


def descendants(found: dict[int, Lane], roots: set[int]) -> list[Lane]:
    """Return the roots and all that came from them, in the order of birth."""
    family = set(roots)
    for lane in sorted(found.values(), key=lambda lane: lane.born):
        if lane.parent in family:
            family.add(lane.pid)
    mine = [found[pid] for pid in family if pid in found]
    return sorted(mine, key=lambda lane: (lane.born, lane.pid))


def _program(filename: str) -> str:
    """Return the name of what is executed; runc executes itself by an fd."""
    name = filename.rpartition("/")[2]
    is_itself = filename.startswith("/proc/") or name.isdecimal()
    return "runc init" if is_itself else name


def _fields(text: str) -> dict[str, str]:
    """Read ``name=value name=value``; a value may hold spaces."""
    parts = re.split(r"(?:^|\s)(\w+)=", text)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
