"""Mutants of the lifecycle machine and the outbox, and who kills them.

Every mutant must be killed by the tests that decide, or be listed with the reason why
it does the same; what is listed must still exist, and still survive.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from .equivalent import EQUIVALENT
from .judge import all_mutants, judge
from .make import Mutant


def main() -> int:
    """Judge what the command line asks for; 1 if anything is not as it must be."""
    asked = _arguments()
    made = all_mutants()
    wrong = 0

    def fault(text: str) -> None:
        # At once: what is interrupted has told something.
        nonlocal wrong
        wrong += 1
        print(text, flush=True)

    for name in sorted(EQUIVALENT.keys() - _names(made)):
        fault(f"listed, but no mutant: {name}")
    chosen = [mutant for mutant in made if asked.only in mutant.name]
    if asked.sample:
        known = [mutant for mutant in chosen if mutant.name not in EQUIVALENT]
        count = min(asked.sample, len(known))
        chosen = random.Random(asked.seed).sample(known, count)
    if not chosen:
        print(f"no mutant has {asked.only!r} in its name", file=sys.stderr)
        return 2
    began = time.monotonic()
    killed = survived = 0
    for verdict in judge(chosen, is_quick=not asked.full, at_a_time=asked.at_a_time):
        name = verdict.mutant.name
        killed += bool(verdict.by)
        survived += not verdict.by
        if verdict.by and name in EQUIVALENT:
            fault(f"listed, but killed by {verdict.by}: {name}")
        elif not verdict.by and name not in EQUIVALENT:
            fault(f"SURVIVED: line {verdict.mutant.line} of {name}")
        if asked.verbose:
            said = verdict.by or "survives"
            print(f"{name}: {said} ({verdict.took_s:.1f} s)", flush=True)
        elif (killed + survived) % 50 == 0:
            print(f"{killed + survived} of {len(chosen)}", flush=True)
    print(
        f"{len(chosen)} mutants: {killed} killed, {survived} survive, "
        f"{wrong} not as they must be; {time.monotonic() - began:.0f} s"
    )
    return 1 if wrong else 0


def _names(mutants: list[Mutant]) -> set[str]:
    return {mutant.name for mutant in mutants}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/mutants", description=__doc__)
    parser.add_argument(
        "--full",
        action="store_true",
        help="let the walks with two execs decide, too, where those with one do not: "
        "half a minute for each that survives",
    )
    parser.add_argument("--only", default="", help="of which the name has this in it")
    parser.add_argument(
        "--sample", type=_count, default=0, help="so many, chosen by the seed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-a-time", type=_count, default=2)
    parser.add_argument("--verbose", action="store_true", help="a line for each")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"not a count: {text!r}")
    return int(text)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
