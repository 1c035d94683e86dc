"""Says what waits in the outbox, one event at a time, until it is said.

Owns: the head of the queue: when it is said again and when it is given up.
Must not know: how an event is said (see `ways`), who emits.

What can become of the head:

- taken: it is dropped, the next one follows;
- nobody is there, or a passing trouble (`NotNow`): it is said again after a back-off,
  however often, however old;
- trouble that may be of its own making (`Troubled`): likewise, but after `TRIES` such
  answers in a row it is logged as an error and dropped, lest it block all others;
- refused for good (`Refused`): logged as an error and dropped at once.

Invariant (fifo): events leave in the order emitted, across failed forwards,
    reconnects and restarts of the daemon: only the head is ever said.
"""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import chain, repeat
from typing import TYPE_CHECKING, Final

from . import envelope
from .binary import BinaryWay
from .forward import ANSWER_LIMIT_S, ForwardWay
from .ways import LogOnly, NotNow, Refused, Troubled

if TYPE_CHECKING:
    from collections.abc import Sequence

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
                elif await self._is_done(head):
                    self._outbox.drop_head()
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

    def log_unsaid(self) -> None:
        """Log every event that still waits, one by one: nobody will say it."""
        for data in self._outbox:
            log.error("event was never said: %s", envelope.describe(data))

    async def _is_done(self, head: bytes) -> bool:
        """Say the head until it is taken or given up; False if closed before that."""
        tries = 0
        waits_s = chain(self._back_off_s, repeat(self._back_off_s[-1]))
        is_first = True
        while not self._closed:
            try:
                await self._way.say(head)
                return True
            except Refused as error:
                return _give_up(head, error)
            except NotNow as error:
                tries = 0
                trouble: Exception = error
            except Troubled as error:
                tries += 1
                trouble = error
            except Exception as error:  # a bug of ours, which must not end the queue
                log.exception("saying an event failed")
                tries += 1
                trouble = error
            if tries >= self._tries:
                return _give_up(head, trouble)
            if is_first:  # once per event: the log is a pipe that may be full
                waiting = len(self._outbox)
                log.warning("%d events wait to be said: %s", waiting, trouble)
            is_first = False
            await self._back_off(next(waits_s))
        return False

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
    log.error("event is given up: %s: %s", envelope.describe(head), reason)
    return True


def _release(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _is_program(name: str) -> bool:
    # Not shutil.which: its import is dearer than the look.
    paths = [os.path.join(directory, name) for directory in os.get_exec_path()]
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)
