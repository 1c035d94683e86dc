"""A daemon that goes away, or misbehaves, while processes exit: one run of it.

A real shim with a real container; execs end at once while the fake daemon does one
fault to every event, and afterwards everything must have been said: once, in order,
with the time at which it happened; and no call may have waited for the daemon.

At full length, two minutes and a hundred exits by each fault: ``script/stress outage``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.machine import own_forkservers
from tests.shim.harness import OURS, Shim, ended, until

from dunnage.api.times import nanoseconds
from dunnage.conformance.decoder import decode
from dunnage.conformance.oracle import judge
from dunnage.conformance.said import Answered, Kind
from dunnage.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    Internal,
    PermissionDenied,
    Unavailable,
    Unknown,
)
from dunnage.testing.daemon import (
    HANGING,
    LOST,
    TRUNCATED,
    Answer,
    FakeDaemon,
    refused,
    taken,
)

FAULTS: Final[dict[str, Answer | None]] = {
    "killed": None,
    "replaced": None,
    "hangs": HANGING,
    "late": taken(0.3),
    "loses": LOST,
    "truncates": TRUNCATED,
    "refuses-1": refused(Cancelled("no")),
    "refuses-2": refused(Unknown("no")),
    "refuses-4": refused(DeadlineExceeded("no")),
    "refuses-7": refused(PermissionDenied("no")),
    "refuses-10": refused(Aborted("no")),
    "refuses-13": refused(Internal("no")),
    "refuses-14": refused(Unavailable("no")),
}
"""What is done to every event of an outage; a daemon that is not there does nothing."""

AT_A_TIME: Final = 4
STATE_LIMIT_S: Final = 2.0
"""What State, from memory, may take on a machine that others use too; the daemon gives
it that long."""
CALL_LIMIT_S: Final = 10.0
"""What a call that runs the runtime may take."""
POLL_S: Final = 0.2
DELIVERY_LIMIT_S: Final = 300.0


@dataclass
class Outage:
    """One outage under one shim."""

    directory: Path
    fault: str
    exits: int
    lasts_s: float
    """How long it lasts at least; as long as the exits take, if that is longer."""
    runtime: str = "runc"
    binary: Path = OURS
    longest_s: dict[str, float] = field(default_factory=dict)
    """Of each call the longest time that it took during the outage."""
    events: int = 0
    repeats: int = 0

    async def run(self) -> list[str]:
        """Do it; return what is wrong, each in a line."""
        self._answers: list[Answered] = []
        self._known_by_ns: dict[str, int] = {}
        async with Shim(self.directory, self.binary, self.runtime) as shim:
            self._shim = shim
            await shim.close_events()
            async with FakeDaemon(f"{shim.address}.ttrpc") as daemon:
                self._daemon = daemon
                await self._live()
                left = await shim.gone("c")
                return self._verdict() + [f"left behind: {each}" for each in left]

    # -- the outage

    async def _live(self) -> None:
        await self._shim.up("c", ["sleep", "1000"])
        pid = (await self._shim.call("c", "create")).pid
        await self._shim.call("c", "start")
        await until(lambda: len(self._daemon.stream()) == 2)
        server = (await self._shim.call("c", "connect")).shim_pid
        began = time.monotonic()
        self._begin()
        names = iter([f"e{n}" for n in range(self.exits)])
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(self._execs(names))
        while time.monotonic() < began + self.lasts_s:
            await self._timed("state")
            await asyncio.sleep(POLL_S)
        if self.fault != "late":  # it is late to the end, beyond Shutdown
            self._end()
        await self._shim.call("c", "kill", signal=9)
        await self._shim.call("c", "wait")
        deleted = await self._shim.call("c", "delete")
        self._note("", pid, deleted)
        await self._shim.call("c", "shutdown")
        async with asyncio.timeout(DELIVERY_LIMIT_S):
            while True:  # `ended` has a limit that is too short for this
                with contextlib.suppress(TimeoutError):
                    await ended(server)
                    return

    def _begin(self) -> None:
        if answer := FAULTS[self.fault]:
            self._daemon.then = answer
        else:
            self._daemon.stop()

    def _end(self) -> None:
        self._daemon.then = taken()
        self._daemon.stop()
        self._daemon.start()

    async def _execs(self, names: Any) -> None:
        for exec_id in names:
            if self.fault == "replaced":
                self._daemon.stop()
                self._daemon.start()
            await self._shim.exec("c", exec_id, ["true"])
            started = await self._timed("start", exec_id)
            await self._timed("state", exec_id)
            await self._timed("wait", exec_id)
            self._known_by_ns[exec_id] = time.time_ns()
            deleted = await self._timed("delete", exec_id)
            self._note(exec_id, started.pid, deleted)

    async def _timed(self, name: str, exec_id: str = "") -> Any:
        began = time.monotonic()
        answer = await self._shim.call("c", name, exec_id=exec_id)
        took_s = time.monotonic() - began
        self.longest_s[name] = max(took_s, self.longest_s.get(name, 0.0))
        return answer

    def _note(self, exec_id: str, pid: int, deleted: Any) -> None:
        self._answers.append(
            Answered(
                "c",
                exec_id,
                was_started=True,
                pid=pid,
                exit_status=deleted.exit_status,
                exited_at_ns=nanoseconds(deleted.exited_at),
                was_deleted=True,
            )
        )

    # -- the verdict

    def _verdict(self) -> list[str]:
        stream = [decode(data) for data in self._daemon.stream()]
        self.events = len(stream)
        self.repeats = len(self._daemon.heard) - self.events
        wrong = [str(f) for f in judge(stream, answers=self._answers, is_whole=True)]
        wrong += [
            f"a repeat without a cause: {decode(heard.envelope)}"
            for heard in self._daemon.inexcusable()
        ]
        exits = [said for said in stream if said.kind is Kind.EXIT and said.exec_id]
        if len(exits) != self.exits:
            wrong.append(f"{len(exits)} exits of execs, not {self.exits}")
        # That it is not before `exited_at`, the oracle has seen.
        wrong += [
            f"{said} has a time after Wait was answered"
            for said in exits
            if (said.at_ns or 0) > self._known_by_ns[said.exec_id]
        ]
        for name, took_s in self.longest_s.items():
            limit_s = STATE_LIMIT_S if name == "state" else CALL_LIMIT_S
            if took_s > limit_s:
                wrong.append(f"{name} took {took_s:.1f} s")
        return wrong


def main() -> int:
    """Run the faults that the command line asks for; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        prog="script/stress outage", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--exits", type=int, default=100)
    parser.add_argument("--fault", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--runtime", nargs="+", default=["runc", "crun"])
    parser.add_argument("--shim", type=Path, default=OURS, help="another shim")
    asked = parser.parse_args()
    wrong = 0
    for runtime in asked.runtime:
        for fault in asked.fault:
            directory = Path(tempfile.mkdtemp(prefix="dunnage-outage-"))
            began = time.monotonic()
            try:
                outage = Outage(
                    directory, fault, asked.exits, asked.seconds, runtime, asked.shim
                )
                faults = asyncio.run(outage.run())
            finally:
                shutil.rmtree(directory, ignore_errors=True)
            for text in faults:
                print(f"  FAULT {text}")
            longest = ", ".join(f"{k} {v:.2f}" for k, v in outage.longest_s.items())
            print(
                f"{runtime}, {fault}: {outage.events} events, "
                f"{outage.repeats} repeats, "
                f"longest calls (s): {longest}; {len(faults)} faults, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
            wrong += len(faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        with own_forkservers():
            status = main()
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(130)
