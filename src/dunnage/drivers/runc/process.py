"""What init and execs have in common: a runtime makes them; their streams are ours."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence

from dunnage.drivers.contract import Hear, Process, Streams
from dunnage.errors import Unknown
from dunnage.host.cgroups import OomKills
from dunnage.host.procs import Child, Children, Claim, Exited
from dunnage.host.stdio import Held, Logged, Stdio

from .command import Command


class RuncProcess(Process):
    """What init and execs have in common."""

    def __init__(
        self,
        children: Children,
        command: Command,
        directory: str,
        streams: Streams,
        held: Held,
        kills: OomKills,
    ) -> None:
        self._children = children
        self._held = held
        self._kills = kills
        self._command = command
        self._bundle = directory
        self._streams = streams
        self._stdio: Stdio | None = None
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    def listen(self, hear: Hear) -> None:
        assert self._child, "there is no process to listen to yet"

        def hear_exit(exited: Exited) -> None:
            self._kills.look()  # a kill is told before the exit that it caused
            hear(exited)

        self._child.listen(hear_exit)

    def close_stdin(self) -> None:
        if self._stdio:
            self._stdio.close_stdin()

    def resize(self, width: int, height: int) -> None:
        if self._stdio:
            self._stdio.resize(width, height)

    async def drained(self, limit_s: float) -> None:
        if self._stdio:
            await self._stdio.drained(limit_s)

    async def _run(
        self, prefix: str, arguments: Sequence[str], log: str, pid_file: str
    ) -> None:
        """Run a command that leaves us a process, with the streams of that process."""
        options = self._command.options
        stdio = Stdio.open(
            stdin=self._streams.stdin,
            stdout=self._streams.stdout,
            stderr=self._streams.stderr,
            uid=options.io_uid,
            gid=options.io_gid,
            console_in=self._bundle if self._streams.terminal else "",
            logged=self._logged,
        )
        if stdio.console_path:
            arguments = [*arguments, "--console-socket", stdio.console_path]
        try:
            await stdio.prepare()
            with self._children.expecting(pid_file) as claim:
                try:
                    await self._command.attached(
                        prefix, arguments, log, stdio.child, self._bundle
                    )
                    child = _claimed(claim, prefix)
                    stdio.close_child_ends()
                    stdio.start()
                except BaseException:
                    _kill_leftover(claim)
                    raise
        except BaseException:
            stdio.close()
            await stdio.ended(0)
            raise
        self._child, self._stdio = child, stdio
        child.listen(lambda _: stdio.process_ended())

    @property
    def _logged(self) -> Logged:
        """What a logger is to know of the process."""
        command = self._command
        return Logged(self._children, command.namespace, command.id, command.id)

    def _let_go_of_stdio(self) -> None:
        if self._stdio:
            self._held.keep(self._stdio, self._command.id)
            self._stdio = None


def _claimed(claim: Claim, prefix: str) -> Child:
    try:
        return claim.child()
    except (OSError, ValueError) as error:
        raise Unknown(f"{prefix}: the runtime left no pid: {error}") from error


def _kill_leftover(claim: Claim) -> None:
    """End the process that a runtime had made before it failed or was killed."""
    with contextlib.suppress(OSError, ValueError):
        claim.child().kill(signal.SIGKILL)
