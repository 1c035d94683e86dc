"""Says what waits in the outbox, one event at a time, until it is said.

Owns: the head of the queue: when it is said again and when it is given up.
Must not know: how an event is said (see `ways`), who emits.

What can become of the head:

- taken: it is dropped, the next one follows;
- nobody is there, or a passing trouble (`NotNow`): it is said again after a back-off,
  however often, however old;
- trouble that may be of its own making (`Troubled`): likewise, but after `TRIES` such
  answers in a row those behind it are tried, too: when one of them is taken, the
  trouble was the head's own, and it is logged as an error and dropped, lest it block
  all others; when none is, the trouble is the daemon's, and the head waits on;
- refused for good (`Refused`): logged as an error and dropped at once.

Invariant (fifo): events leave in the order emitted, across failed forwards,
    reconnects and restarts of the daemon: only the head is ever said, or one behind it
    whose being taken ends all before it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Final

from . import envelope
from .binary import BinaryWay
from .forward import ANSWER_LIMIT_S, ForwardWay
from .ways import LogOnly, NotNow, Refused, Troubled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .binary import Run
    from .outbox import Outbox
    from .ways import Way

log = logging.getLogger(__name__)

# Waits between the attempts at one event; the last one repeats.
# The first is short, as a connection that a restarted daemon left behind is noticed
# only in use; the last is what a thousand shims can afford while the daemon is away.
BACK_OFF_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)

# With the waits above, some fifty seconds of trouble.
TRIES: Final = 30

# How many behind the head are tried then. Few: should a daemon in trouble recover in
# that very moment, this is what is lost.
PROBES: Final = 3


class Publisher:
    """The one reader of an outbox.

    With a ttrpc ``address`` it forwards; without one it runs ``publish_binary``, if
    there is such a program and a ``run`` to run it with; else it logs.
    """

    def __init__(
        self,
        outbox: Outbox,
        namespace: str,
        address: str,
        *,
        grpc_address: str = "",
        publish_binary: str = "",
        run: Run | None = None,
        back_off_s: Sequence[float] = BACK_OFF_S,
        tries: int = TRIES,
        answer_limit_s: float = ANSWER_LIMIT_S,
    ) -> None:
        self._outbox = outbox
        self._back_off_s = back_off_s
        self._tries = tries
        self._closed = False
        self._head_since = 0.0
        self._why_waiting = ""
        # What `run` waits for, and whoever waits for the queue to run empty.
        self._more: asyncio.Future[None] | None = None
        self._pause: asyncio.Future[None] | None = None
        self._drains: list[asyncio.Future[None]] = []
        self._way: Way
        if address:
            self._way = ForwardWay(namespace, address, answer_limit_s=answer_limit_s)
        elif run is not None and _is_program(publish_binary):
            self._way = BinaryWay(namespace, grpc_address, publish_binary, run)
        else:
            self._way = LogOnly()
        outbox.on_put = self._on_put

    async def run(self) -> None:
        """Say what waits and what comes, until `close`.

        No misbehaviour of the daemon ends it.
        Cancelling it leaves the head in the outbox, whether or not it was taken.
        """
        loop = asyncio.get_running_loop()
        try:
            while not self._closed:
                head = self._outbox.head()
                if head is None:
                    self._end_drains()
                    self._more = loop.create_future()
                    await self._more
                else:
                    self._head_since = loop.time()
                    self._why_waiting = ""
                    if await self._is_done(head):
                        self._outbox.drop()
        finally:
            self.close()

    async def drained(self, limit_s: float) -> bool:
        """Wait until everything was said, at most ``limit_s``; return whether it was.

        A back-off is cut short: this may be the last occasion.
        Cancelling it is harmless.
        """
        if self._outbox and not self._closed:
            loop = asyncio.get_running_loop()
            drain = loop.create_future()
            self._drains.append(drain)
            _release(self._pause)
            limit = loop.call_later(limit_s, _release, drain)
            try:
                await drain
            finally:
                limit.cancel()
        return not self._outbox

    def close(self) -> None:
        """Say nothing more; `run` returns soon, `drained` with what is true."""
        self._closed = True
        self._way.close()
        _release(self._more)
        _release(self._pause)
        self._end_drains()

    async def log_unsaid(self, room: Callable[[], Awaitable[None]]) -> None:
        """Log every event that still waits, one by one: nobody will say it.

        ``room`` waits until the log takes another record.
        """
        for data in list(self._outbox):
            await room()
            log.error(
                "event was never said: %s",
                envelope.describe(data),
                extra={"container": envelope.container(data)},
            )

    def describe(self) -> str:
        """Return the backlog as one line: how many wait; which is first, and why."""
        head = self._outbox.head()
        if head is None:
            return "no event waits"
        waits_s = asyncio.get_running_loop().time() - self._head_since
        why = self._why_waiting or "not answered yet"
        return (
            f"{len(self._outbox)} events wait, the first for {waits_s:.1f} s: "
            f"{envelope.describe(head)}: {why}"
        )

    async def _is_done(self, head: bytes) -> bool:
        """Say the head until it is taken or given up; False if closed before that."""
        tries = 0
        waits_s = chain(self._back_off_s, repeat(self._back_off_s[-1]))
        while not self._closed:
            trouble = await self._trouble(head)
            if trouble is None:
                return True
            if isinstance(trouble, Refused):
                return _give_up(head, trouble)
            tries = 0 if isinstance(trouble, NotNow) else tries + 1
            if tries >= self._tries:
                if await self._is_its_own(trouble):
                    return True
                tries = 0
            self._wait_on(trouble)
            await self._back_off(next(waits_s))
        return False

    async def _is_its_own(self, trouble: Exception) -> bool:
        """Whether the head's trouble is its own: one behind it is taken, and dropped.

        The head, and those between, which had the same trouble, are given up.
        """
        tried = list(islice(self._outbox, 1 + PROBES))
        troubles = [trouble]
        for data in tried[1:]:
            reason = await self._trouble(data)
            if reason is None:
                for poison, its_own in zip(tried, troubles, strict=False):
                    _give_up(poison, its_own)
                for _ in troubles:
                    self._outbox.drop(1)
                return True
            if isinstance(reason, NotNow):
                break
            troubles.append(reason)
        return False

    async def _trouble(self, data: bytes) -> Exception | None:
        """Say an event once; return why it was not taken, None if it was."""
        try:
            await self._way.say(data)
        except (NotNow, Troubled, Refused) as error:
            return error
        except Exception as error:  # a bug of ours, which must not end the queue
            if not self._why_waiting:
                log.exception("saying an event failed")
            return error
        return None

    def _wait_on(self, trouble: Exception) -> None:
        """Note why the head waits; log it once: the log is a pipe that may be full."""
        if not self._why_waiting:
            waiting = len(self._outbox)
            log.warning("%d events wait to be said: %s", waiting, trouble)
        self._why_waiting = str(trouble)

    async def _back_off(self, wait_s: float) -> None:
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        self._pause = loop.create_future()
        timer = loop.call_later(wait_s, _release, self._pause)
        try:
            await self._pause
        finally:
            timer.cancel()
            self._pause = None

    def _on_put(self) -> None:
        _release(self._more)

    def _end_drains(self) -> None:
        for drain in self._drains:
            _release(drain)
        self._drains.clear()


def _give_up(head: bytes, reason: Exception) -> bool:
    log.error(
        "event is given up: %s: %s",
        envelope.describe(head),
        reason,
        extra={"container": envelope.container(head)},
    )
    return True


def _release(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _is_program(name: str) -> bool:
    # Not shutil.which: its import is dearer than the look.
    paths = [os.path.join(directory, name) for directory in os.get_exec_path()]
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)
