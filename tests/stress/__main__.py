"""The stress test at full length; see ``script/stress``."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.machine import own_forkservers
from tests.shim.harness import OURS

from .growth import a_shim, grown
from .load import Amount, Load

WARM_UP = 100


def main() -> int:
    """Run what the command line asks for; 1 if anything is wrong."""
    asked = _arguments()
    # Told to end, it cleans up as for ^C.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if asked.growth:
        wrong = sum(
            _growth(runtime, asked.growth, counted=counted)
            for runtime in asked.runtime
            for counted in (False, True)
        )
        print(f"faults: {wrong}")
        return 1 if wrong else 0
    amount = Amount(asked.short, asked.execs, asked.dying, asked.at_a_time)
    print(f"seed {asked.seed}")
    wrong = 0
    for turn in range(asked.rounds):
        for runtime in asked.runtime:
            for pods in asked.pods:
                way = (runtime, pods == "yes")
                wrong += _one(*way, amount, asked.seed + turn, asked.shim)
    print(f"faults: {wrong}")
    return 1 if wrong else 0


def _one(runtime: str, pods: bool, amount: Amount, seed: int, shim: Path) -> int:
    title = f"{runtime}, {'in pods' if pods else 'a shim each'}"
    directory = Path(tempfile.mkdtemp(prefix="dunnage-stress-"))
    began = time.monotonic()
    try:
        load = Load(
            directory,
            runtime,
            pods,
            amount,
            seed,
            progress=lambda text: print(f"{title} · {text}", flush=True),
            binary=shim,
        )
        faults = asyncio.run(load.run())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for fault in faults:
        print(f"  FAULT {fault}")
    print(
        f"{title}: {load.events} events, {len(load.answers)} lives, "
        f"{load.refused} starts refused, {len(faults)} faults, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    return len(faults)


def _growth(runtime: str, lives: int, *, counted: bool) -> int:
    name = f"{runtime}, {'cold and counted' if counted else 'warm'}"
    directory = Path(tempfile.mkdtemp(prefix="dunnage-stress-"))
    began = time.monotonic()

    async def run() -> list[str]:
        async with a_shim(directory, runtime, counted=counted) as growth:
            before = await growth.lives(max(WARM_UP, lives // 10))
            progress = f"{name}, growth · life {{}} of {lives}"
            after = await growth.lives(
                lives, lambda number: print(progress.format(number), flush=True)
            )
            more = (after.anonymous_bytes - before.anonymous_bytes) >> 10
            print(f"{name}: {before.anonymous_bytes >> 10} KiB, then {more:+} KiB")
            return grown(before, after, lives)

    try:
        faults = asyncio.run(run())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for fault in faults:
        print(f"  FAULT {fault}")
    took_s = time.monotonic() - began
    print(f"{name}: {lives} lives, {len(faults)} faults, {took_s:.0f} s", flush=True)
    return len(faults)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/stress", description=__doc__)
    parser.add_argument(
        "--short", type=_count, default=200, help="inits that end at once"
    )
    parser.add_argument(
        "--execs", type=_count, default=200, help="execs that end at once"
    )
    parser.add_argument(
        "--dying",
        type=_count,
        default=50,
        help="inits that die while execs start; twice: in both kinds of pid namespace",
    )
    parser.add_argument(
        "--growth",
        type=_count,
        default=0,
        metavar="LIVES",
        help="lead so many lives in one shim instead, and see whether it has grown",
    )
    parser.add_argument("--at-a-time", type=_count, default=8)
    parser.add_argument("--rounds", type=_count, default=1)
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1 << 32),
        help="the same choices again; the machine's own are free",
    )
    both = ["runc", "crun"]
    parser.add_argument("--runtime", nargs="+", choices=both, default=both)
    parser.add_argument(
        "--pods",
        nargs="+",
        choices=["no", "yes"],
        default=["no", "yes"],
        help="whether containers share a shim",
    )
    parser.add_argument("--shim", type=_program, default=OURS, help="another shim")
    asked = parser.parse_args()
    if not asked.at_a_time:
        parser.error("at least one at a time")
    return asked


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a count: {text!r}")
    return int(text)


def _program(text: str) -> Path:
    path = Path(text).absolute()
    if not os.access(path, os.X_OK) or path.is_dir():
        raise argparse.ArgumentTypeError(f"no program: {text!r}")
    return path


if __name__ == "__main__":
    try:
        with own_forkservers():
            status = main()
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(130)
