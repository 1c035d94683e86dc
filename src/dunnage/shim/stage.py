"""Children that are played: what runtimes and containers' processes do in a rehearsal.

No process is made; pid files are written and output is said as a runtime would.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from dunnage.host.procs import Child, Children, Claim, Exited

_NO_PID: Final = 1 << 30
"""Beyond what Linux gives to processes."""


class Stage(Children):
    """Children that are played: no process is made.

    A runtime's run is over as soon as it began.
    Played pids are beyond what Linux gives to processes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last = _NO_PID

    @contextlib.contextmanager
    def expecting(self, pid_file: str) -> Iterator[Claim]:
        """Claim a container's process that is played."""
        with super().expecting(pid_file):
            yield _Expected(pid_file, self)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        fds: Sequence[int],
        env: Mapping[str, str] | None = None,  # noqa: ARG002  # a real one's
        cwd: str | None = None,  # noqa: ARG002  # likewise
        outlives: bool = False,  # noqa: ARG002  # likewise
    ) -> Child:
        """Play a program to its end."""
        return self._ended(self._act(list(argv), fds))

    async def call(self, body: Callable[[], None]) -> None:  # noqa: ARG002  # not run
        """Do nothing, successfully."""
        await self._ended(0).wait()

    def enter(self, pid: int) -> Child:
        """Have a container's process come on."""
        actor = self._known[pid] = _Actor(pid, self)
        return actor

    def end(self, child: Child, status: int) -> None:
        """Have a child be reaped, soon."""
        ended = Exited(status, time.time_ns())
        asyncio.get_running_loop().call_soon(self._reaped, child.pid, ended)

    def _ended(self, status: int) -> Child:
        child = self.adopt(self._next())
        self.end(child, status)
        return child

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _act(self, argv: list[str], fds: Sequence[int]) -> int:
        """Do as the runtime does; return its exit status."""
        if "--pid-file" in argv:
            path = argv[argv.index("--pid-file") + 1]
            with open(path, "w", encoding="ascii") as file:
                file.write(str(self._next()))
            os.write(fds[1], b"said\n")
        elif "kill" in argv:
            if (init := self._living()) is None:
                os.write(fds[2], b"container not running")
                return 1
            init.kill(int(argv[-1]))
        elif "delete" in argv:
            if init := self._living():
                init.kill(signal.SIGKILL)
        elif "ps" in argv:
            os.write(fds[1], b"[1, 2]")
        return 0

    def _living(self) -> Child | None:
        actors = [c for c in self._known.values() if isinstance(c, _Actor)]
        return actors[0] if actors else None


class _Actor(Child):
    """A container's process."""

    def __init__(self, pid: int, stage: Stage) -> None:
        super().__init__(pid)
        self._stage = stage

    def kill(self, signum: int) -> None:
        if self.exited is None:
            self._stage.end(self, 128 + signum)


class _Expected(Claim):
    """The claim on a container's process that is played."""

    def __init__(self, pid_file: str, stage: Stage) -> None:
        super().__init__(pid_file, stage)
        self._path = pid_file
        self._stage = stage

    def child(self) -> Child:
        with open(self._path, "rb") as file:
            return self._stage.enter(int(file.read()))
