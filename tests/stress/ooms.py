"""OOM kills, many of each kind, one after another: each told once, and in time.

Of init and of an exec: right before the exit. Of a grandchild: while all else lives on.
At a pod's limit: of the victim's container, never of its sibling's.
And never of a container that ends, and is removed, for other reasons.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.machine import own_forkservers
from tests.shim.harness import Shim
from tests.shim.hog import HOG, a_pod, limited

_AGAIN = "while read go </tmp/again; do tail /dev/zero; done"
_LIFE = ["Create", "Start", "Exit", "Delete"]
_KILLED_LIFE = ["Create", "Start", "OOM", "Exit", "Delete"]
_KILLED_EXEC = ["ExecAdded", "ExecStarted", "OOM", "Exit e", "Delete e"]


class Ooms:
    """Kills of each kind in one shim, and the faults in what it said."""

    def __init__(self, shim: Shim, kills: int) -> None:
        self.faults: list[str] = []
        self.latencies_s: list[float] = []
        self._shim = shim
        self._kills = kills

    async def run(self) -> None:
        """Have all happen."""
        await self._begin("first", ["sleep", "1000"], 0)
        for number in range(self._kills):
            await self._life(f"init-{number}", HOG, _KILLED_LIFE)
            await self._life(f"none-{number}", ["true"], _LIFE)
        await self._execs()
        await self._grandchildren()
        with a_pod() as pod:
            await self._begin("sibling", ["sleep", "1000"], 0, pod)
            for number in range(self._kills):
                await self._life(f"pod-{number}", HOG, _KILLED_LIFE, 0, pod)
            await self._end("sibling")
        await self._expect("sibling", _LIFE)
        await self._end("first")
        await self._expect("first", _LIFE)

    async def _begin(self, id_: str, args: list[str], *limits: Any) -> None:
        config = limited(args, *limits)
        if id_ == "first":
            await self._shim.up(id_, config=config)
        else:
            self._shim.member(id_, "first", config)
        await self._shim.call(id_, "create")
        await self._shim.call(id_, "start")

    async def _end(self, id_: str) -> None:
        await self._shim.call(id_, "kill", signal=9)
        await self._shim.call(id_, "wait")
        await self._shim.call(id_, "delete")

    async def _life(
        self, id_: str, args: list[str], expected: list[str], *limits: Any
    ) -> None:
        await self._begin(id_, args, *limits)
        await self._shim.call(id_, "wait")
        await self._shim.call(id_, "delete")
        await self._expect(id_, expected)
        self._shim.drop(id_)

    async def _execs(self) -> None:
        shim = self._shim
        await self._begin("execs", ["sleep", "1000"])
        for _ in range(self._kills):
            await shim.exec("execs", "e", HOG)
            await shim.call("execs", "start", exec_id="e")
            await shim.call("execs", "wait", exec_id="e")
            await shim.call("execs", "delete", exec_id="e")
        await self._end("execs")
        between = _KILLED_EXEC * self._kills
        await self._expect("execs", [*_LIFE[:2], *between, *_LIFE[2:]])

    async def _grandchildren(self) -> None:
        await self._begin("grand", ["sh", "-c", f"mkfifo /tmp/again; {_AGAIN}"])
        again = self._shim.rootfs / "tmp/again"
        while not again.exists():
            await asyncio.sleep(0.01)
        for number in range(self._kills):
            began = time.monotonic()
            await asyncio.to_thread(again.write_text, "go\n")
            while self._shim.kinds("grand").count("OOM") <= number:
                await asyncio.sleep(0.001)
                if time.monotonic() > began + 20:
                    self.faults.append(f"a grandchild: {number} of {self._kills} told")
                    break
            self.latencies_s.append(time.monotonic() - began)
        await self._end("grand")
        await self._expect("grand", [*_LIFE[:2], *["OOM"] * self._kills, *_LIFE[2:]])

    async def _expect(self, id_: str, expected: list[str]) -> None:
        await self._shim.wait_for_event("TaskDelete", container_id=id_, id="")
        if (said := self._shim.kinds(id_)) != expected:
            self.faults.append(f"{id_}: {said}")


async def many(directory: Path, runtime: str, kills: int) -> Ooms:
    """Have many kills of each kind."""
    async with Shim(directory, runtime=runtime) as shim:
        ooms = Ooms(shim, kills)
        await ooms.run()
        return ooms


def main() -> int:
    """Run what the command line asks for; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="script/stress ooms", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each kind")
    asked = parser.parse_args()
    wrong = 0
    for runtime in ("runc", "crun"):
        directory = Path(tempfile.mkdtemp(prefix="dunnage-stress-"))
        try:
            ooms = asyncio.run(many(directory, runtime, asked.kills))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        for fault in ooms.faults:
            print(f"  FAULT {fault}")
        *_, last = sorted(ooms.latencies_s)
        middle = sorted(ooms.latencies_s)[len(ooms.latencies_s) // 2]
        took = f"told {middle:.3f} s after it was caused, {last:.3f} s at most"
        print(f"{runtime}: {asked.kills} kills of each kind, {took}", flush=True)
        wrong += len(ooms.faults)
    print(f"faults: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    with own_forkservers():
        sys.exit(main())
