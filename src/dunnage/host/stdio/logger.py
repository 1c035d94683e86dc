"""Programs that take the outputs of a process: binary loggers.

Owns: how a logger is run, when it is ready, what becomes of it when it dies, how it
ends.
Must not know: whose output it is, but by name.

A logger reads the stdout of the process as its fd 3 and the stderr as its fd 4, and
closes its fd 5, or writes a byte to it, when it is ready.
The process writes to these pipes itself, and no byte passes through us; a terminal's
pump does it in its place.

Policy: *block*; and we hold the read ends.

Invariant (logger-dies-alone): nobody is killed for want of a logger, and what a dead
one has not read is its successor's.
One that ends while there may be more to read is started again, `_FIRST_PAUSE_S`
later, and twice as long after each further death; meanwhile the process may fill the
pipe (64 KiB) and then waits.
After `_MOST_DEATHS` in a row, none of which lived for `_GOOD_LIFE_S`, it is given up:
from then on output is read by us, dropped and counted, so that the process goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from dunnage.errors import DunnageError, kind_of
from dunnage.host.procs.identity import is_ending

from .fd import Fd, pipe, unread_bytes
from .fifo import reason
from .null import NullSink
from .pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable

    from dunnage.host.procs import Child, Children

    from .uri import LogUri

_log = logging.getLogger(__name__)

READY_LIMIT_S: Final = 30.0
"""How long a logger may take to be ready."""
END_LIMIT_S: Final = 10.0
"""How long one that has all may take to end, when nobody waits for it any more."""
_TERM_LIMIT_S: Final = 2.0
"""And after a SIGTERM, before a SIGKILL."""
_FIRST_PAUSE_S: Final = 0.1
_MOST_DEATHS: Final = 7
_GOOD_LIFE_S: Final = 60.0
_DESCRIPTOR_PAUSE_S: Final = 1.0


class Logged(NamedTuple):
    """Whose output it is, and who runs the loggers."""

    children: Children
    namespace: str
    id: str
    """Of the process: the container's, or the exec's."""
    container: str


class LoggerSink:
    """One of the two pipes that a logger reads."""

    refused = None
    was_read = False

    def __init__(self) -> None:
        self.reader, self.fd = pipe()
        self._on_done: Callable[[], None] | None = None
        self._lost_bytes = 0
        self._dropping: Pump | None = None

    @property
    def unread_bytes(self) -> int:
        """How much was written and not yet read."""
        return unread_bytes(self.reader.number) if self.reader.is_open else 0

    @property
    def lost_bytes(self) -> int:
        """How much was dropped, or was there when it was closed."""
        dropped = self._dropping.moved_bytes if self._dropping else 0
        return self._lost_bytes + dropped

    @property
    def is_at_end(self) -> bool:
        """Whether nobody writes to it any more; something may be unread."""
        return bool(self._ready & select.POLLHUP)

    @property
    def is_over(self) -> bool:
        """Whether that is so, and all was read."""
        return self._ready & (select.POLLHUP | select.POLLIN) == select.POLLHUP

    @property
    def _ready(self) -> int:
        if not self.reader.is_open:
            return select.POLLHUP
        poll = select.poll()
        poll.register(self.reader.number, select.POLLIN)
        return dict(poll.poll(0)).get(self.reader.number, 0)

    def finish(self, on_done: Callable[[], None], *, wrote: bool) -> None:  # noqa: ARG002  # a sink's shape
        """Let the logger come to the end, and be done when it has ended."""
        self.fd.close()
        if self.was_read:
            on_done()
        else:
            self._on_done = on_done

    def forsake(self) -> None:
        """The reader that is there is ours."""

    def drop(self, null: int, on_end: Callable[[], None]) -> None:
        """Read it ourselves to its end, for nothing; the logger is no more."""
        os.set_blocking(self.reader.number, False)
        self._dropping = Pump(self.reader.number, null, on_end)
        self._dropping.start()

    def be_done(self) -> None:
        """There is no logger any more, and no need of one."""
        self.was_read = True
        on_done, self._on_done = self._on_done, None
        if on_done:
            on_done()

    def close(self) -> None:
        """Give up what is left; idempotent."""
        self._lost_bytes += self.unread_bytes
        if self._dropping:
            self._dropping.stop()
        self._on_done = None
        self.fd.close()
        self.reader.close()


class Logger:
    """A logger of a process, and its successors, from `start` to `close` and `ended`.

    With ``says_ready`` (``binary-v2``) it has to write the byte; else that it closes
    its fd 5 will do, unless it does that by its end.
    """

    def __init__(self, uri: LogUri, logged: Logged, *, says_ready: bool) -> None:
        self.out = LoggerSink()
        try:
            self.err = LoggerSink()
        except BaseException:
            self.out.close()
            raise
        self._uri = uri
        self._logged = logged
        self._says_ready = says_ready
        self._child: Child | None = None
        self._tending: asyncio.Task[None] | None = None
        self._was_at_end = False
        self._loop = asyncio.get_running_loop()

    @property
    def is_running(self) -> bool:
        """Whether there is a process that is not gone."""
        return self._child is not None and self._child.exited is None

    @property
    def is_ending(self) -> bool:
        """Whether it will end by itself: nobody writes any more."""
        tended = self._tending is not None and not self._tending.done()
        return tended and self._is_at_end

    async def start(self) -> None:
        """Start it and wait until it is ready; cancelled, or failing, it is killed.

        Raises:
            DunnageError: there is no such program, it ended or it was not ready.
        """
        await self._begin()
        self._tending = self._loop.create_task(self._tend())

    def close(self) -> None:
        """Give up what is left; the logger has its end of file. Idempotent."""
        if self._tending:
            self._tending.cancel()
            self._tending = None
        self._was_at_end |= self._is_at_end
        self.out.close()
        self.err.close()

    async def ended(self, limit_s: float = END_LIMIT_S) -> None:
        """Wait for its end; one that does not come to it is terminated, then killed.

        Follows `close`.
        """
        if self._child is None:
            return
        # Who else holds the other ends keeps it from its end.
        steps = (
            (limit_s if self._was_at_end else 0, signal.SIGTERM),
            (_TERM_LIMIT_S, signal.SIGKILL),
        )
        for patience_s, signum in steps:
            if await _ended(self._child, patience_s):
                return
            if patience_s:
                text = "logger %s has not ended: signal %d"
                _log.warning(text, self._uri.path, signum, extra=self._extra)
            with contextlib.suppress(ProcessLookupError):
                self._child.kill(signum)
        await self._child.wait()

    @property
    def _is_at_end(self) -> bool:
        return self.out.is_at_end and self.err.is_at_end

    @property
    def _extra(self) -> dict[str, str]:
        return {"container": self._logged.container}

    async def _begin(self) -> None:
        """Start it, and wait until it is ready."""
        ready, told = pipe()
        try:
            try:
                self._child = self._spawn(told)
            finally:
                told.close()
            try:
                await self._be_ready(ready, self._child)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    self._child.kill(signal.SIGKILL)
                raise
        finally:
            ready.close()

    def _spawn(self, told: Fd) -> Child:
        path, arguments = self._uri.path, self._uri.arguments
        null = Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        try:
            return self._logged.children.spawn(
                [path, *arguments],
                fds=(
                    *(null.number, null.number, null.number),
                    *(self.out.reader.number, self.err.reader.number, told.number),
                ),
                env={
                    "CONTAINER_ID": self._logged.id,
                    "CONTAINER_NAMESPACE": self._logged.namespace,
                },
                cwd="/",  # who works in the bundle is ended when a dead shim is buried
                outlives=True,  # it has what its shim had not seen the end of
            )
        except OSError as error:
            self._fail(
                f"failed to start binary process: fork/exec {path}: {reason(error)}",
                kind_of(error, DunnageError),
                error,
            )
        finally:
            null.close()

    async def _be_ready(self, ready: Fd, child: Child) -> None:
        readable: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(ready.number, _set, readable)
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                await readable
        except TimeoutError:
            self._fail(f"did not call ready within {READY_LIMIT_S:.0f} s")
        finally:
            self._loop.remove_reader(ready.number)
        if os.read(ready.number, 1):
            return
        # What it had open it lets go of when it is about to end, not sooner.
        if is_ending(child.pid):
            exited = await child.wait()
            self._fail(f"did not call ready: it ended with status {exited.status}")
        if self._says_ready:
            self._fail("did not call ready: it closed the descriptor without a byte")

    def _fail(
        self,
        what: str,
        kind: type[DunnageError] = DunnageError,
        cause: OSError | None = None,
    ) -> NoReturn:
        if cause is None:
            what = f"logging binary {self._uri.path} {what}"
        raise kind(f"failed to create init process I/O: {what}") from cause

    async def _tend(self) -> None:
        """Start it again whenever it dies too early, until it is given up."""
        deaths = 0
        while True:
            lived_s = await self._lived()
            if self.out.is_over and self.err.is_over:
                break
            deaths = 1 if lived_s >= _GOOD_LIFE_S else deaths + 1
            if deaths >= _MOST_DEATHS:
                text = "logger %s is given up: output is dropped"
                _log.error(text, self._uri.path, extra=self._extra)
                await self._drop()
                break
            await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (deaths - 1))
            for sink in (self.out, self.err):
                os.set_blocking(sink.reader.number, True)  # whatever it has done
            try:
                await self._begin()
            except (DunnageError, OSError) as error:
                _log.warning("%s", error, extra=self._extra)
        self.out.be_done()
        self.err.be_done()

    async def _lived(self) -> float:
        """Wait for its death; return how long that took."""
        assert self._child, "it was started"
        began = self._loop.time()
        exited = await self._child.wait()
        if not (self.out.is_over and self.err.is_over):
            text = "logger %s has ended with status %d before the output"
            _log.warning(text, self._uri.path, exited.status, extra=self._extra)
        return self._loop.time() - began

    async def _drop(self) -> None:
        null = await self._null()
        ends: list[asyncio.Future[None]] = []
        try:
            for sink in (self.out, self.err):
                ends.append(self._loop.create_future())
                sink.drop(null.fd.number, partial(_set, ends[-1]))
            await asyncio.gather(*ends)
        finally:
            null.close()

    async def _null(self) -> NullSink:
        """Return where nothing arrives; waits for a descriptor if none is left."""
        while True:
            try:
                return NullSink.open()
            except OSError as error:
                _log.warning("/dev/null: %s", reason(error), extra=self._extra)
            await asyncio.sleep(_DESCRIPTOR_PAUSE_S)


async def _ended(child: Child, limit_s: float) -> bool:
    # Also in a task that is being cancelled, where asyncio.timeout (3.11) fails.
    waiting = asyncio.ensure_future(child.wait())
    try:
        await asyncio.wait((waiting,), timeout=limit_s)
    finally:
        waiting.cancel()
    return child.exited is not None


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
