"""What one run found: its samples by shim and row, and where it was made; as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .stats import Samples, Spread, differences, ratios, spread
from .subjects import PEERS, REFERENCE
from .verdict import Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that is measured."""

    name: str
    title: str
    unit: str
    group: str
    """By which word of ``--only`` it is chosen."""
    digits: int = 1


def rows() -> list[Row]:
    """Return every row that there can be, in the order of the table."""
    found = [
        Row("start", "start until the first answer", "ms", "life"),
        Row("delete", "delete of a dead container", "ms", "delete"),
        Row("life", "one life of true", "ms", "life"),
        Row("floor", "the runtime alone", "ms", "life"),
        Row("above", "one life above the floor", "ms", "life"),
        Row("ctr-1.6", "ctr run --rm, containerd 1.6", "ms", "ctr"),
        Row("ctr-2.3", "ctr run --rm, containerd 2.3", "ms", "ctr"),
        Row("exec", "exec of true until its exit event", "ms", "exec"),
        Row("exec-quiet", "the same after a tenth of a second", "ms", "exec"),
        Row("last-act", "last act of init until its exit event", "ms", "exec", 2),
        Row("execs", "execs of true, 8 at a time", "/s", "execs"),
    ]
    for name, title in (
        ("memory", "{} shims"),
        ("pods", "pods of five, {} containers"),
        ("ksm", "{} shims, KSM on"),
    ):
        for count in COUNTS:
            what = title.format(count)
            found += [
                Row(f"{name}-{count}-pss", f"PSS, {what}", "MiB", name, 2),
                Row(f"{name}-{count}-private", f"private, {what}", "MiB", name, 2),
            ]
    return [
        *found,
        Row("threads", "threads per shim", "", "memory"),
        Row("idle-cpu", "CPU of all idle shims in 10 s", "ms", "memory"),
        Row("idle-wakeups", "wake-ups of all idle shims in 10 s", "", "memory", 0),
    ]


COUNTS: Final = (5, 10, 25, 30, 100, 300)
"""How many containers a population may have."""

_REFERENCES: Final = {"ctr-1.6": "go-1.6"}
"""Where the reference does not run: under a daemon that is older than its dialect."""

GROUPS: Final = ("life", "delete", "exec", "execs", "ctr", "memory", "pods", "ksm")


@dataclass
class Results:
    """Everything that a run found."""

    runtime: str
    rounds: int
    samples: dict[str, dict[str, list[float | None]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    """By shim, then by row."""
    absent: dict[str, str] = field(default_factory=dict)
    """Why a shim, or a row of one ("shim row"), was not measured."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, shim: str, figures: Mapping[str, float | None]) -> None:
        """Add one sample of each row."""
        for name, value in figures.items():
            self.samples[shim][name].append(value)

    def derive(self) -> None:
        """Work out the rows that come from others."""
        for found in self.samples.values():
            if "life" in found and "floor" in found:
                found["above"] = differences(found["life"], found["floor"])

    def of(self, shim: str, row: str) -> Samples:
        """Return the samples of a row."""
        return self.samples.get(shim, {}).get(row, [])

    def spread(self, shim: str, row: str) -> Spread | None:
        """Return how a row spreads."""
        return spread(self.of(shim, row))

    def ratio(self, shim: str, row: str) -> Spread | None:
        """Return how it compares with the reference, round by round."""
        reference = _REFERENCES.get(row, REFERENCE)
        if shim == reference:
            return None
        return ratios(self.of(shim, row), self.of(reference, row))

    def shims(self) -> list[str]:
        """Return who was measured, in order."""
        return list(self.samples)

    def rows(self) -> list[Row]:
        """Return the rows that have a sample."""
        return [
            row
            for row in rows()
            if any(self.of(shim, row.name) for shim in self.samples)
        ]

    def faults(self, ours: Iterable[str]) -> list[str]:
        """Return what is wrong with what ours said, each in a line."""
        found = list(self.failures)
        for shim in ours:
            said = self.verdicts.get(shim)
            if said and said.missing + said.exec_deletes + said.misordered:
                found.append(
                    f"{shim}: {said.missing + said.exec_deletes} events missing, "
                    f"{said.misordered} misordered: {'; '.join(said.examples)}"
                )
        return found

    def to_json(self) -> str:
        """Return everything, with the spreads worked out."""
        summary = {
            shim: {
                row.name: _summary(
                    self.spread(shim, row.name), self.ratio(shim, row.name)
                )
                for row in self.rows()
                if self.of(shim, row.name)
            }
            for shim in self.samples
        }
        return json.dumps(
            {
                "machine": machine(self.runtime),
                "reference": REFERENCE,
                "rounds": self.rounds,
                "seconds": round(self.seconds, 1),
                "summary": summary,
                "samples": self.samples,
                "events": {name: v.asdict() for name, v in self.verdicts.items()},
                "absent": self.absent,
                "failures": self.failures,
            },
            indent=1,
        )


def machine(runtime: str) -> dict[str, str]:
    """Return what the figures depend on, and is no shim."""
    version = subprocess.run(
        [runtime, "--version"], capture_output=True, text=True, check=False
    )
    first = (version.stdout.splitlines() or [""])[0]
    peers = {
        path.parent.name: path.read_text().splitlines()[0]
        for path in sorted(PEERS.glob("*/VERSION"))
        if path.parent.name in {"containerd-1.6", "containerd-2.3", "rust-shim"}
    }
    return {
        "processors": str(os.cpu_count()),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "runtime": first,
        **peers,
    }


def _summary(spread_: Spread | None, ratio: Spread | None) -> dict[str, Any]:
    def numbers(each: Spread | None) -> dict[str, float] | None:
        if each is None:
            return None
        return {
            "count": each.count,
            "p10": round(each.low, 4),
            "median": round(each.median, 4),
            "p90": round(each.high, 4),
        }

    return {"value": numbers(spread_), "ratio": numbers(ratio)}


def write(results: Results, path: Path) -> None:
    """Write the JSON of results."""
    path.write_text(results.to_json() + "\n")
