"""The command line of runc and crun.

A command's own log tells why it failed; the log is appended to over the container's
life, so only what a command added is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from dunnage.errors import DunnageError, Unknown, kind_of
from dunnage.host.procs import Children, Completed

from . import texts
from .options import Options

_log = logging.getLogger(__name__)

_KILL_LIMIT_S: Final = 1.0
"""How long a killed runtime may take to be gone."""
_LOG_LIMIT_BYTES: Final = 4 << 20
"""How much of what one command logged is looked at."""


class Command:
    """Calls the runtime for one container."""

    def __init__(
        self, children: Children, options: Options, namespace: str, id_: str
    ) -> None:
        self.options = options
        self.namespace = namespace
        self._children = children
        self._globals = options.command(namespace)
        self.id = id_
        self.state_directory = f"{options.runtime_root(namespace)}/{id_}"
        self._env = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"}
        # With that variable runc would talk to systemd, and wait for an answer.

    @property
    def is_crun(self) -> bool:
        """Whether it is crun, which knows fewer options."""
        return os.path.basename(self._program) == "crun"

    async def attached(
        self,
        prefix: str,
        arguments: Sequence[str],
        log: str,
        fds: tuple[int, int, int],
        cwd: str,
    ) -> None:
        """Run a command whose stdio becomes that of the container's process.

        Raises:
            Unknown: it failed; the text is ``prefix`` and its last error.
            ResourceExhausted: likewise, for want of fds, processes, memory or space.
        """
        offset = _size(log)
        argv = self._argv(arguments, log)
        try:
            child = self._children.spawn(argv, fds=fds, env=self._env, cwd=cwd)
        except OSError as error:
            raise self._unstarted(error, prefix, log, offset) from error
        try:
            with _timed(argv) as ended:
                exited = await child.wait()
                ended(exited.status)
        except asyncio.CancelledError:
            # Not before it is gone is what it has made an orphan, and ours to end.
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                child.kill(signal.SIGKILL)
                async with asyncio.timeout(_KILL_LIMIT_S):
                    await child.wait()
            raise
        if exited.status != 0:
            reason = texts.unsuccessful(self._program, exited.status)
            raise _failure(prefix, log, offset, reason)

    async def logged(self, prefix: str, arguments: Sequence[str], log: str) -> None:
        """Run a command that reports its failure in the log.

        Raises:
            Unknown: it failed; the text is ``prefix`` and its last error.
            ResourceExhausted: likewise, for want of fds, processes, memory or space.
        """
        offset = _size(log)
        try:
            completed = await self._run(self._argv(arguments, log))
        except OSError as error:
            raise self._unstarted(error, prefix, log, offset) from error
        if completed.status != 0:
            raise _failure(prefix, log, offset, self._failed(completed))

    async def plain(
        self, arguments: Sequence[str], *after: str, stdin: bytes = b""
    ) -> bytes:
        """Run a command that reports its failure on stderr; ``after`` follows the id.

        It may run beside another command, whose log it leaves alone.

        Returns:
            What it said on stdout.

        Raises:
            Unknown: it failed, or could not be started.
            ResourceExhausted: for want of fds, processes or memory.
        """
        try:
            # Without a log, runc adds a level and a time to what it says on stderr.
            argv = [*self._argv(arguments, os.devnull), *after]
            completed = await self._run(argv, stdin)
        except OSError as error:
            text = texts.unstartable(error, self._program)
            raise kind_of(error)(text) from error
        if completed.status != 0:
            raise Unknown(self._failed(completed))
        return completed.stdout

    async def _run(self, argv: Sequence[str], stdin: bytes = b"") -> Completed:
        with _timed(argv) as ended:
            completed = await self._children.run(argv, stdin=stdin, env=self._env)
            ended(completed.status)
        return completed

    def _failed(self, completed: Completed) -> str:
        said = completed.stdout + completed.stderr
        return texts.unsuccessful(self._program, completed.status, said)

    def _unstarted(
        self, error: OSError, prefix: str, log: str, offset: int
    ) -> DunnageError:
        reason = texts.unstartable(error, self._program)
        return _failure(prefix, log, offset, reason, kind_of(error))

    @property
    def _program(self) -> str:
        return self._globals[0]

    def _argv(self, arguments: Sequence[str], log: str) -> list[str]:
        logging = ["--log", log, "--log-format", "json"]
        return [*self._globals, *logging, *arguments, self.id]


@contextlib.contextmanager
def _timed(argv: Sequence[str]) -> Iterator[Callable[[int], None]]:
    """Log a run of the runtime as a debug record; yields what to tell its status."""
    began = time.monotonic()
    statuses: list[int] = []
    try:
        yield statuses.append
    finally:
        took_s = time.monotonic() - began
        outcome = f"exit status {statuses[0]}" if statuses else "given up"
        _log.debug("%s: %s after %.3f s", " ".join(argv), outcome, took_s)


def _failure(
    prefix: str,
    log: str,
    offset: int,
    reason: str,
    kind: type[DunnageError] = Unknown,
) -> DunnageError:
    added = _added(log, offset)
    return texts.failure(prefix, added, reason, kind=kind, disk_is_full=_is_full(log))


def _is_full(path: str) -> bool:
    try:
        return os.statvfs(path).f_bavail == 0
    except OSError:
        return False


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _added(path: str, offset: int) -> str | OSError:
    try:
        # Never waiting, whatever stands there; a regular file does not mind.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return os.pread(fd, _LOG_LIMIT_BYTES, offset).decode(errors="replace")
        finally:
            os.close(fd)
    except OSError as error:
        error.filename = path
        return error
