"""The command line of script/bench."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .results import GROUPS


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    warm_up: int
    counts: tuple[int, ...]
    """How many shims the populations have."""
    pods: int
    """How many containers there are in pods of five."""
    idle: tuple[int, float]
    """How many shims are watched doing nothing, and for how long (s)."""


QUICK = Plan(10, 1, (10, 30), 25, (30, 2.0))
NORMAL = Plan(30, 3, (10, 100), 100, (100, 10.0))
FULL = Plan(60, 3, (10, 100, 300), 100, (100, 10.0))
SMOKE = Plan(1, 0, (5,), 5, (5, 0.2))
"""Everything once: that the harness works."""


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    plan: Plan
    runtime: str
    only: tuple[str, ...]
    shims: tuple[str, ...]
    """Names of known shims; all of them if empty."""
    others: tuple[str, ...]
    """``NAME=PATH`` of more."""
    ksm: bool
    json: Path | None
    docs: Path | None
    trace: Path | None


def parse(argv: Sequence[str]) -> Options:
    """Read a command line; exits where it cannot be read."""
    parser = argparse.ArgumentParser(
        prog="script/bench", description="Measures shims, ours and others, in one run."
    )
    size = parser.add_mutually_exclusive_group()
    for name, plan, text in (
        ("quick", QUICK, "ten rounds, small populations (four minutes)"),
        ("full", FULL, "sixty rounds, up to 300 shims"),
        ("smoke", SMOKE, "everything once"),
    ):
        size.add_argument(
            f"--{name}", dest="plan", action="store_const", const=plan, help=text
        )
    add = parser.add_argument
    add("--rounds", type=int, metavar="N", help="so many rounds, and as many execs")
    add("--runtime", default="runc", help="runc or crun")
    add("--only", default="", help=f"a list of: {', '.join(GROUPS)}")
    add("--shims", default="", help="a list of the known shims, instead of all")
    add(
        "--shim",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="one more shim; with a name that begins with dunnage it is one of ours",
    )
    add("--ksm", action="store_true", help="also with the kernel's KSM on, for a while")
    add("--json", type=Path, metavar="FILE", help="write all samples")
    add(
        "--docs",
        type=Path,
        nargs="?",
        const=Path("docs/benchmarks"),
        metavar="FOLDER",
        help="write a page, with JSON and plots (docs/benchmarks)",
    )
    add(
        "--trace",
        type=Path,
        metavar="FILE",
        help="only draw a life of ours from the kernel's trace of it",
    )
    given = parser.parse_args(argv)
    only = tuple(filter(None, given.only.split(","))) or GROUPS
    if unknown := set(only) - set(GROUPS):
        parser.error(f"nothing is called {', '.join(sorted(unknown))}")
    if "ksm" in given.only.split(",") and not given.ksm:
        parser.error("ksm changes a setting of the host: it needs --ksm")
    plan = given.plan or NORMAL
    if given.rounds is not None:
        if given.rounds < 1:
            parser.error("--rounds needs a number from 1 on")
        plan = Plan(given.rounds, plan.warm_up, plan.counts, plan.pods, plan.idle)
    return Options(
        plan,
        given.runtime,
        only,
        tuple(filter(None, given.shims.split(","))),
        tuple(given.shim),
        given.ksm,
        given.json,
        given.docs,
        given.trace,
    )
