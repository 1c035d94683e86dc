"""A picture of one life of ours, made from the kernel's trace of it.

Dark is when a process had a processor, light when it was there and waited.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import procs
from .driver import Driver, Failed, probe
from .plots import pyplot
from .site import Site
from .subjects import Subject
from .tracing import Lane, descendants, instance, lanes, read

_WARM_UPS: Final = 5
_COLOURS: Final = {
    "launcher": "#dd8452",
    "shim": "#55a868",
    "runc": "#4c72b0",
    "true": "#c44e52",
    "other": "#8c8c8c",
}
_Marks = list[tuple[float, str]]


def draw(site: Site, subjects: Sequence[Subject], path: Path) -> None:
    """Trace a life of the first of ours that is there, and draw it.

    Raises:
        Failed: none of ours is there.
    """
    ours = [each for each in subjects if each.is_ours and not each.absent]
    if not ours:
        raise Failed("none of ours can be measured")
    driver = Driver(site, ours[0])
    probe(driver)
    for _ in range(_WARM_UPS):
        _life(driver, [])
    marks: _Marks = []
    place = driver.subject.environment.get("DUNNAGE_FORKSERVER", "")
    servers = procs.family(driver.namespace, place=place if place[:1] == "/" else "")
    with instance(site.directory / "tracefs") as mine:
        _life(driver, marks)
        found = lanes(read(mine))
    first, last = marks[0][0], marks[-1][0]
    family = descendants(found, {os.getpid(), *servers})
    shown = [
        lane
        for lane in family
        if lane.pid != os.getpid() and any(a < last and b > first for a, b in lane.ran)
    ]
    _picture(driver.subject, _by_process(shown), marks, path)


def _life(driver: Driver, marks: _Marks) -> None:
    """Lead one life of `true`; note when each step began."""
    container = driver.prepare(["true"])

    def mark(text: str) -> None:
        marks.append((time.monotonic(), text))

    mark("start")
    driver.start_shim(container)
    mark("Connect")
    driver.call(container, "connect")
    mark("Create")
    driver.create(container)
    mark("Start")
    driver.call(container, "start")
    mark("exit event")
    driver.hears_exit(container)
    mark("Delete")
    driver.delete(container)
    mark("Shutdown")
    driver.shutdown(container)
    mark("end")
    driver.bury(container)


def _by_process(shown: list[Lane]) -> list[Lane]:
    """Join what hardly ran (a Go program has threads by the dozen) to its parent."""
    by_pid: dict[int, Lane] = {}
    for lane in shown:
        parent = by_pid.get(lane.parent)
        is_alike = parent and (lane.name == parent.name or _kind(parent) == "true")
        if parent and is_alike and not lane.execs:
            parent.ran += lane.ran
            by_pid[lane.pid] = parent
        else:
            by_pid[lane.pid] = lane
    unique = {id(lane): lane for lane in by_pid.values()}
    return list(unique.values())


def _kind(lane: Lane) -> str:
    names = " ".join([lane.name, *(program for _, program in lane.execs)])
    if "runc" in names and "shim" not in names:
        return "true" if lane.execs and lane.execs[-1][1] == "true" else "runc"
    if "true" in names or "busybox" in names:
        return "true"
    if lane.execs:
        return "launcher"
    return "shim" if "shim" in names or "dunnage" in names else "other"


def _picture(subject: Subject, shown: list[Lane], marks: _Marks, path: Path) -> None:
    plt = pyplot()
    first = marks[0][0]
    figure, axis = plt.subplots(figsize=(12, 1.6 + 0.3 * len(shown)))

    def ms(at: float) -> float:
        return (at - first) * 1e3

    end = ms(marks[-1][0])
    for row, lane in enumerate(shown):
        colour = _COLOURS[_kind(lane)]
        born = max(0.0, ms(lane.born)) if lane.born else 0.0
        died = min(end, ms(lane.died)) if lane.died else end
        axis.broken_barh(
            [(born, died - born)], (row - 0.3, 0.6), color=colour, alpha=0.2
        )
        bars = [
            (max(0.0, ms(a)), ms(b) - max(0.0, ms(a)))
            for a, b in lane.ran
            if ms(b) > 0 and ms(a) < end
        ]
        axis.broken_barh(bars, (row - 0.3, 0.6), color=colour)
    for number, (at, text) in enumerate(marks[:-1]):
        axis.axvline(ms(at), color="#333333", linewidth=0.6, linestyle=":")
        # Two steps may be close together.
        place = (ms(at), -0.8 - 0.7 * (number % 2))
        axis.annotate(text, place, fontsize=8, annotation_clip=False)
    names = [
        " → ".join(dict.fromkeys(p for _, p in lane.execs)) or lane.name
        for lane in shown
    ]
    axis.set_yticks(range(len(shown)), names, fontsize=8)
    axis.set_ylim(len(shown) - 0.4, -0.7)
    axis.set_xlim(0, end)
    axis.set_xlabel("ms since start was called")
    axis.set_title(f"One life of true under {subject.name}", pad=42, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
