"""One run: every shim in turn, round by round; then the populations.

Invariant (interleaved): each round visits every shim once, so that the machine's ups
and downs are shared, and each round's ratio is of one time; in an order of its own, as
the kernel still cleans up after the last one when the next one comes.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from dunnage.errors import DunnageError

from . import daemons, ksm, population, rounds
from .driver import Driver, Failed, probe
from .options import Options
from .results import Results
from .site import Site
from .subjects import Subject
from .verdict import verdict

T = TypeVar("T")

_TROUBLE = (Failed, DunnageError, OSError, AssertionError)
_LAST_WORDS_S = 0.5
"""How long an event may come after everything else."""
_HEAVY_EVERY = 3
"""Execs side by side take long: they are measured in each third round."""


class Run:
    """A run of everything that was asked for."""

    def __init__(
        self,
        site: Site,
        subjects: Sequence[Subject],
        options: Options,
        progress: Callable[[str], None],
    ) -> None:
        self._site = site
        self._options = options
        self._plan = options.plan
        self._progress = progress
        self.results = Results(options.runtime, options.plan.rounds)
        for subject in subjects:
            if subject.absent:
                self.results.absent[subject.name] = subject.absent
        there = [subject for subject in subjects if not subject.absent]
        self._drivers = [Driver(site, subject) for subject in there]

    def all(self) -> Results:
        """Measure everything."""
        began = time.monotonic()
        self._probe()
        wanted = set(self._options.only)
        if wanted & {"life", "delete", "exec", "execs"}:
            self._rounds()
        if "ctr" in wanted:
            for row, version in daemons.VERSIONS.items():
                self._ctr(row, version)
        for driver in list(self._drivers):
            self._populations(driver)
        if self._options.ksm:
            self._ksm()
        self._site.hub.wait(lambda: False, _LAST_WORDS_S)
        for driver in self._drivers:
            self.results.verdicts[driver.subject.name] = verdict(driver)
        self.results.derive()
        self.results.seconds = time.monotonic() - began
        return self.results

    def _probe(self) -> None:
        for driver in list(self._drivers):
            name = driver.subject.name
            _ = self.results.samples[name]  # the order of the columns
            with self._tolerating(driver, "a first life"):
                probe(driver)
                self._progress(f"{name} speaks the {driver.dialect.value} dialect")

    # -- rounds

    def _rounds(self) -> None:
        for number in range(-self._plan.warm_up, self._plan.rounds):
            for driver in _shuffled(self._drivers, number):
                with self._tolerating(driver, f"round {number}"):
                    for figures in self._visit(driver, number):
                        if number >= 0:
                            self.results.add(driver.subject.name, figures)
            self._progress(f"round {number + 1} of {self._plan.rounds}")

    def _visit(self, driver: Driver, number: int) -> Iterator[rounds.Figures]:
        wanted = self._options.only
        if "life" in wanted:
            yield rounds.life(driver) | rounds.floor(self._site)
        if "delete" in wanted:
            yield rounds.dead(driver)
        if "exec" in wanted:
            yield from rounds.execs(driver)
        if "execs" in wanted and number % _HEAVY_EVERY == 0:
            yield rounds.together(driver)

    # -- containerd

    def _ctr(self, row: str, version: str) -> None:
        if why := daemons.absent(version):
            self.results.absent[row] = why
            return
        image = daemons.image(self._site)
        with contextlib.ExitStack() as stack:
            clients: list[tuple[Subject, daemons.Ctr]] = []
            for driver in self._drivers:
                subject = driver.subject
                try:
                    ctr = daemons.Ctr(self._site, subject, version, image)
                    stack.callback(ctr.close)
                    ctr.run()
                except _TROUBLE as error:
                    self._unable(subject, row, error)
                    continue
                clients.append((subject, ctr))
            for number in range(-self._plan.warm_up, self._plan.rounds):
                for subject, ctr in _shuffled(clients, number):
                    try:
                        took = ctr.run()
                    except _TROUBLE as error:
                        self._unable(subject, row, error)
                        clients.remove((subject, ctr))
                        continue
                    if number >= 0:
                        self.results.add(subject.name, {row: took})
                self._progress(f"{row}: round {number + 1} of {self._plan.rounds}")

    def _unable(self, subject: Subject, row: str, error: BaseException) -> None:
        # Some answer in bytes, which are no text for a page.
        said = "".join(c if c.isprintable() else " " for c in str(error))
        why = " ".join(said.split())[-240:]
        text = f"{subject.name} {row}: {why}"
        self._progress(text)
        if subject.is_ours:
            self.results.failures.append(text)
        else:
            self.results.absent[f"{subject.name} {row}"] = why

    # -- populations

    def _populations(self, driver: Driver) -> None:
        wanted, plan, name = self._options.only, self._plan, driver.subject.name
        if "memory" in wanted:
            with self._tolerating(driver, "memory"):
                found = population.grown(driver, plan.counts, plan.idle, self._progress)
                self.results.add(name, found)
        if "pods" in wanted:
            with self._tolerating(driver, "pods"):
                self.results.add(name, population.pods(driver, plan.pods))
                self._progress(f"{name}: {plan.pods} containers in pods")

    def _ksm(self) -> None:
        count = self._plan.idle[0]
        with ksm.merging():
            for driver in list(self._drivers):
                # A fork server decides by the host's setting when it starts.
                place = self._site.directory / f"k-{driver.subject.name}"
                driver.use_fork_server(place)
                with self._tolerating(driver, "ksm"):
                    found = population.merged(driver, count)
                    self.results.add(driver.subject.name, found)
                self._progress(f"{driver.subject.name}: {count} shims, KSM on")

    # -- trouble

    @contextlib.contextmanager
    def _tolerating(self, driver: Driver, what: str) -> Iterator[None]:
        """Go on without a shim that fails; if it is one of ours, the run has failed."""
        try:
            yield
        except _TROUBLE as error:
            self._drivers.remove(driver)
            self.results.verdicts[driver.subject.name] = verdict(driver)
            self._unable(driver.subject, what, error)


def _shuffled(items: Sequence[T], number: int) -> list[T]:
    """Return items in an order that is the round's own, and the same in each run."""
    return random.Random(number).sample(items, len(items))
