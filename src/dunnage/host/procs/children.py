"""All our children: one reaper, and who may claim a status.

Invariant (status-kept): every child is reaped at once, orphans too; its status is kept
exactly as long as an operation in flight could claim it.

A container's process is an orphan of its runtime, and becomes our child when that exits
(runc) or earlier (crun's exec forks twice), perhaps before its pid file is written.
So each operation in flight has a `Claim`, which keeps the status of every orphan that
was reaped since the operation began; when the runtime is gone and the pid file is
there, the claim knows which of them was its own, and drops the others.
A kept status is believed only if the pid is no living child of ours: so a pid that was
recycled in the meantime never finds a stranger's status.

Reaping cannot wait until somebody asks: a process that was injected into a pid
namespace and is left a zombie keeps that namespace's init from dying.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

from dunnage.errors import DunnageError, Internal, from_status

from .child import Child, Exited
from .spawn import exit_status, fork_child, spawn

_log = logging.getLogger(__name__)

_OUTPUT_LIMIT_BYTES = 16 << 20
_UNKNOWN_STATUS = 255
_MOST_FD = (1 << 31) - 1
_SPARE_FDS = 3
"""For the pid file; after it for a terminal's connection, master and slave."""


class Completed(NamedTuple):
    """A program that ended."""

    status: int
    """0–255, or 128 + signal."""
    stdout: bytes
    stderr: bytes


class Claim:
    """An operation's claim on the process that its runtime will leave us.

    It keeps descriptors for the time when the runtime is gone: others may have taken
    the last ones meanwhile, and a process that we cannot name could not be ended.
    """

    def __init__(self, pid_file: str, children: Children) -> None:
        self._pid_file = pid_file
        self._children = children
        self._orphans: dict[int, Exited] = {}
        self._child: Child | None = None
        self._spare: list[int] = []

    def reserve(self) -> None:
        """Take the descriptors that are kept.

        Raises:
            OSError: there are not so many.
        """
        for _ in range(_SPARE_FDS):
            self._spare.append(os.eventfd(0))

    def release(self) -> None:
        """Give back the descriptors that are kept; idempotent."""
        while self._spare:
            os.close(self._spare.pop())

    def keep(self, pid: int, exited: Exited) -> None:
        """Keep the status of an orphan: it may turn out to be ours."""
        self._orphans[pid] = exited

    def child(self) -> Child:
        """Return the process that the pid file names, exited already or not.

        To be asked when the runtime is gone; what was kept is free from then on.

        Raises:
            OSError: there is no pid file.
            ValueError: it holds no pid.
        """
        if self._child is None:
            self.release()
            self._child = self._find()
        return self._child

    def _find(self) -> Child:
        with open(self._pid_file, "rb") as file:  # text would import its codec
            pid = int(file.read())
        try:
            # Alive, or a zombie that the reaper has not come to yet: it is ours.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return Child(pid, self._orphans.get(pid) or _unknown(pid))
        return self._children.adopt(pid)


def _unknown(pid: int) -> Exited:
    """Return containerd's "unknown" status: somebody else has reaped the process."""
    _log.warning("process %d is not our child: its exit status is unknown", pid)
    return Exited(_UNKNOWN_STATUS, time.time_ns())


class Children:
    """Spawns, adopts and reaps; the only caller of waitpid(2) in its process."""

    def __init__(self) -> None:
        self._known: dict[int, Child] = {}
        self._claims: set[Claim] = set()

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    def reap(self) -> None:
        """Reap everything that can be reaped; signals coalesce, so to the last one."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._reaped(pid, Exited(exit_status(status), time.time_ns()))

    def _reaped(self, pid: int, exited: Exited) -> None:
        if child := self._known.pop(pid, None):
            child.reaped(exited)
            return
        for claim in self._claims:
            claim.keep(pid, exited)
        _log.debug("reaped an orphan, pid %d, status %d", pid, exited.status)

    @contextlib.contextmanager
    def expecting(self, pid_file: str) -> Iterator[Claim]:
        """Claim, for the length of the block, the process that ``pid_file`` will name.

        A stale file of that name is removed first: it must never match.

        Raises:
            OSError: that failed, or there is no descriptor left to read the file with.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(pid_file)  # pathlib is not imported in a shim
        claim = Claim(pid_file, self)
        self._claims.add(claim)
        try:
            claim.reserve()
            yield claim
        finally:
            claim.release()
            self._claims.discard(claim)

    def adopt(self, pid: int) -> Child:
        """Know ``pid``, a child of ours that was not reaped yet, from now on."""
        child = self._known[pid] = Child(pid)
        return child

    def spawn(
        self,
        argv: Sequence[str],
        *,
        fds: Sequence[int],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        outlives: bool = False,
    ) -> Child:
        """Start a program as `spawn.spawn` does; a child that is known from birth."""
        pid = spawn(argv, fds=fds, env=env, cwd=cwd, outlives=outlives)
        return self.adopt(pid)

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float | None = None,
    ) -> Completed:
        """Run a program to its end and collect what it says.

        A program that exceeds ``timeout_s``, or whose caller is cancelled, is killed.

        Raises:
            OSError: it could not be started.
        """
        with contextlib.ExitStack() as fds:
            given, out, err = (_file(fds, name) for name in ("stdin", "out", "err"))
            os.write(given, stdin)
            os.lseek(given, 0, os.SEEK_SET)
            child = self.spawn(argv, fds=(given, out, err), env=env, cwd=cwd)
            try:
                async with asyncio.timeout(timeout_s):
                    exited = await child.wait()
            except TimeoutError:
                child.kill(signal.SIGKILL)
                exited = await child.wait()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):
                    child.kill(signal.SIGKILL)
                raise
            return Completed(exited.status, _content(out), _content(err))

    async def call(self, body: Callable[[], None]) -> None:
        """Run ``body`` in a forked child: for kernel calls that may block for long.

        Raises:
            DunnageError: what ``body`` raised, with its code and text; `Internal` if
                it ended without a word.
        """
        report, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

        def told_body() -> None:
            # It may hang for long: of what we hold it keeps nothing open, and it has
            # descriptors when we have none left.
            os.closerange(3, told)
            os.closerange(told + 1, _MOST_FD)
            try:
                body()
            except DunnageError as error:
                os.write(told, f"{error.code} {error.message}".encode()[:4096])
                raise
            except Exception as error:
                os.write(told, f"2 {type(error).__name__}: {error}".encode()[:4096])
                raise

        try:
            try:
                child = self.adopt(fork_child(told_body))
            finally:
                os.close(told)
            exited = await child.wait()
            if exited.status != 0:
                with contextlib.suppress(BlockingIOError):
                    if said := os.read(report, 4096).decode(errors="replace"):
                        code, _, text = said.partition(" ")
                        raise from_status(int(code), text)
                raise Internal(f"a helper process ended with status {exited.status}")
        finally:
            os.close(report)


def _file(fds: contextlib.ExitStack, name: str) -> int:
    """Make a file in memory, closed with ``fds``.

    Files, not pipes, connect us with a program: they never fill, need no reader, and
    can be read to their end when the program is gone, whoever still holds them.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    fds.callback(os.close, fd)
    return fd


def _content(fd: int) -> bytes:
    return os.pread(fd, _OUTPUT_LIMIT_BYTES, 0)
