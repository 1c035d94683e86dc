"""Many containers that do nothing: what their shims take while they wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from . import ksm, procs
from .driver import Container, Driver
from .rounds import Figures

POD_SIZE: Final = 5
_SETTLE_S: Final = 10.0
_REST_S: Final = 6.0
"""How long shims may do what they do when nothing more happens, before a look: ours
give memory back after a second."""
_TOLD_S: Final = 10.0
_KIB: Final = 1024


@dataclass
class Population:
    """The containers of one driver; `grow` it, look, and `end` it."""

    driver: Driver
    pod_size: int = 1
    containers: list[Container] = field(default_factory=list)

    def grow(self, count: int) -> None:
        """Launch containers until there are so many."""
        while len(self.containers) < count:
            first = len(self.containers) // self.pod_size * self.pod_size
            leader = self.containers[first] if first < len(self.containers) else None
            container = self.driver.launch(
                ["sleep", "100000"],
                leader=leader,
                is_pod=leader is None and self.pod_size > 1,
            )
            self.containers.append(container)

    def family(self) -> list[int]:
        """Return the processes of the shims, when they change no more."""
        place = self.driver.subject.environment.get("DUNNAGE_FORKSERVER", "")
        place = place if place.startswith("/") else ""
        return procs.settle(self.driver.namespace, place, _SETTLE_S)

    def memory(self, name: str) -> Figures:
        """Return what each container costs (MiB), once its shim is at rest."""
        time.sleep(_REST_S)
        used = procs.use(self.family())
        each = len(self.containers) * _KIB
        return {
            f"{name}-pss": used.pss_kib / each,
            f"{name}-private": used.private_kib / each,
        }

    def idleness(self, period_s: float) -> Figures:
        """Return the threads per shim, and what all of them do in ten seconds.

        They are watched for ``period_s``.
        """
        family = self.family()
        shims = len(self.containers) / self.pod_size
        before = procs.work(family)
        time.sleep(period_s)
        after = procs.work(family)
        done = procs.between(before, after)
        return {
            "threads": len(after) / shims,
            "idle-cpu": done.cpu_ns / 1e6 * _TOLD_S / period_s,
            "idle-wakeups": done.wakeups * _TOLD_S / period_s,
        }

    def end(self) -> None:
        """End all of them, the leaders of pods last."""
        for container in reversed(self.containers):
            self.driver.end(container)
        self.containers.clear()


def grown(
    driver: Driver,
    counts: Sequence[int],
    idle: tuple[int, float] | None,
    progress: Callable[[str], None],
) -> Figures:
    """Measure shims of one container each, at each of these counts.

    Args:
        driver: whose shims.
        counts: how many, from few to many.
        idle: at which count, and for how long (s), they are watched doing nothing.
        progress: is told how it goes.
    """
    found: Figures = {}
    population = Population(driver)
    for count in counts:
        population.grow(count)
        found |= population.memory(f"memory-{count}")
        if idle and idle[0] == count:
            found |= population.idleness(idle[1])
        progress(f"{driver.subject.name}: {count} shims")
    population.end()
    return found


def pods(driver: Driver, count: int) -> Figures:
    """Measure so many containers in pods."""
    population = Population(driver, POD_SIZE)
    population.grow(count)
    found = population.memory(f"pods-{count}")
    population.end()
    return found


def merged(driver: Driver, count: int) -> Figures:
    """Measure shims of one container each while the kernel merges their pages."""
    population = Population(driver)
    population.grow(count)
    ksm.settle()
    found = population.memory(f"ksm-{count}")
    population.end()
    return found
