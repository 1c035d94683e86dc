"""Saying an event by a program: the way of daemons before TTRPC_ADDRESS.

Owns: the command line of ``publish``, and what its end means.
Must not know: how a program is run; `Run` does that.

One process per event, the next one only when the last has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from dunnage.errors import DunnageError

from . import envelope
from .ways import NotNow, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

# What the shims of that time granted one publish (protocol: 4.3).
LIMIT_S: Final = 5.0

# The program ends with status 1 whatever went wrong; these words in its last line
# tell the daemon's refusal from its absence.
_FOR_GOOD: Final = ("invalid argument", "InvalidArgument", "Unimplemented")


class Completed(Protocol):
    """A program that has ended."""

    @property
    def status(self) -> int:
        """The exit status."""

    @property
    def stderr(self) -> bytes:
        """What it wrote to stderr."""


class Run(Protocol):
    """Runs a program to its end; ``dunnage.host.procs`` has one."""

    async def __call__(
        self, argv: Sequence[str], *, stdin: bytes, timeout_s: float
    ) -> Completed:
        """Run ``argv`` with ``stdin``; kill it after ``timeout_s``."""
        ...


class BinaryWay:
    """The way through the containerd program's ``publish`` command."""

    def __init__(
        self, namespace: str, grpc_address: str, program: str, run: Run
    ) -> None:
        self._run = run
        self._argv = (program, "--address", grpc_address, "publish")
        self._namespace = namespace

    async def say(self, data: bytes) -> None:
        """Say the envelope ``data`` by one process.

        What its namespace and time were is the program's business; it has no flag
        for the time.

        Raises:
            NotNow: it could not be run, did not end, or did not reach the daemon.
            Refused: the daemon does not want the event.
        """
        message = envelope.decode(data)
        flags = ("--topic", message.topic, "--namespace", self._namespace)
        try:
            done = await self._run(
                (*self._argv, *flags),
                stdin=message.event.SerializeToString(),
                timeout_s=LIMIT_S,
            )
        except (OSError, DunnageError) as error:
            raise NotNow(f"{self._argv[0]}: {error}") from error
        if not done.status:
            return
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [""]
        reason = f"{self._argv[0]}: exit status {done.status}: {lines[-1]}"
        if any(word in lines[-1] for word in _FOR_GOOD):
            raise Refused(reason)
        raise NotNow(reason)

    def close(self) -> None:
        """Do nothing: the process in progress ends within its limit."""
