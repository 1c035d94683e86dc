"""A small event loop for the shim: asyncio's interface over epoll, and little else.

Owns: what is ready, timers, watched descriptors, signals; a turn of the loop.
Must not know: what runs on it.

Tasks, futures, locks and timeouts are asyncio's own; this is what they ask of a loop,
with `add_reader`, `add_writer` and signal handlers.
There are no transports, no threads and no executor: those methods of asyncio's
interface raise NotImplementedError.
It may be made in a forked child: it holds nothing of the process's before `run`, and
nothing after it.

Invariant (fair): a turn runs what was ready when it began to run callbacks, in the
order in which that became ready; what these make ready waits for the next turn.
Descriptors come before timers, as in asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import sys
import time
from asyncio import (  # private by name, meant for who writes loops
    _get_running_loop,
    _set_running_loop,
)
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from heapq import heapify, heappop, heappush
from typing import Any, Final, Protocol, TypeAlias, TypeVar, TypeVarTuple

_log = logging.getLogger(__name__)

_LONGEST_WAIT_S: Final = 24 * 3600.0
"""epoll_wait(2) takes milliseconds in 31 bits."""
_CLOCK_S: Final = time.get_clock_info("monotonic").resolution
_MOST_CANCELLED: Final = 32
"""So many cancelled timers may lie around, or half of all."""
_SIGNALS_AT_ONCE: Final = 4096

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


_Fd: TypeAlias = "int | _HasFileno"
_Watched: TypeAlias = dict[int, asyncio.Handle]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` in a loop of its own, as `asyncio.run` does; return its result.

    What is left when it ends is cancelled and waited for.
    Unlike there, SIGINT is not handled: who wants it asks for it.

    Raises:
        RuntimeError: a loop is running.
        ValueError: ``main`` is no coroutine.
    """
    if not asyncio.iscoroutine(main):
        raise ValueError(f"a coroutine was expected, got {main!r}")
    if _get_running_loop() is not None:
        raise RuntimeError("a loop is running already")
    loop = Loop()  # type: ignore[abstract]  # what is left out raises by itself
    try:
        task: asyncio.Task[T] = loop.create_task(main)
        try:
            loop.run_until_complete(task)
        finally:
            loop.cancel_what_is_left()
        return task.result()
    finally:
        loop.close()


class Loop(asyncio.AbstractEventLoop):
    """The loop; `run` makes, runs and closes it."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[asyncio.TimerHandle] = []
        self._cancelled_timers = 0
        self._epoll = select.epoll()
        self._readers: _Watched = {}
        self._writers: _Watched = {}
        self._signals: dict[int, asyncio.Handle] = {}
        self._signal_pipe: tuple[int, int] | None = None
        self._is_running = False
        self._is_over = False

    # -- running

    def run_until_complete(self, future: Any) -> Any:
        """Turn until a future is done; return its result.

        As in asyncio, the turn in which it is heard of runs to its end.
        """
        future.add_done_callback(self._note_end)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._close_generator)
        _set_running_loop(self)
        self._is_running, self._is_over = True, False
        try:
            while not self._is_over:
                self._turn()
        finally:
            self._is_running = False
            _set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            future.remove_done_callback(self._note_end)
            if future.done() and not future.cancelled():
                future.exception()  # SystemExit has gone past us: it is not unheard of
        return future.result()

    def cancel_what_is_left(self) -> None:
        """Cancel all tasks, wait for them, and report what they failed with."""
        tasks = asyncio.all_tasks(self)
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        self.run_until_complete(self.create_task(_ended(tasks)))
        for task in tasks:
            if not task.cancelled() and (error := task.exception()):
                text = "a task failed while it was cancelled at the end"
                about = {"message": text, "exception": error, "task": task}
                self.call_exception_handler(about)

    def is_running(self) -> bool:
        """Whether it is running."""
        return self._is_running

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._epoll.closed

    def close(self) -> None:
        """Let go of everything; what was ready or planned is dropped."""
        if self._is_running:
            raise RuntimeError("a running loop cannot be closed")
        for signum in list(self._signals):
            self.remove_signal_handler(signum)
        if self._signal_pipe is not None:
            for fd in self._signal_pipe:
                os.close(fd)
            self._signal_pipe = None
        for each in (self._ready, self._timers, self._readers, self._writers):
            each.clear()
        self._epoll.close()

    def _turn(self) -> None:
        ready, timers = self._ready, self._timers
        while timers and timers[0].cancelled():
            heappop(timers)
        wait_s = None
        if ready:
            wait_s = 0.0
        elif timers:
            wait_s = min(max(0.0, timers[0].when() - self.time()), _LONGEST_WAIT_S)
        watched = len(self._readers) + len(self._writers)
        for fd, what in self._epoll.poll(wait_s, watched or 1):
            # An error or the end of a connection is news for both.
            if what & ~select.EPOLLOUT and fd in self._readers:
                ready.append(self._readers[fd])
            if what & ~select.EPOLLIN and fd in self._writers:
                ready.append(self._writers[fd])
        now = self.time() + _CLOCK_S
        while timers and timers[0].when() < now:
            ready.append(heappop(timers))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()  # noqa: SLF001  # what a loop is to call

    def _note_end(self, _: object) -> None:
        self._is_over = True

    # -- callbacks

    def time(self) -> float:
        """Return the loop's clock, in seconds."""
        return time.monotonic()

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Have ``callback`` called in the next turn."""
        self._refuse_if_closed()
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Have ``callback`` called in ``delay`` seconds."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Have ``callback`` called at a time of the loop's clock."""
        self._refuse_if_closed()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, timer)
        return timer

    def _timer_handle_cancelled(self, _: asyncio.TimerHandle) -> None:
        """Drop the cancelled timers when there are many; asyncio's timers call this.

        One that was due is counted too: then this is done more often than needed, yet
        never more than once in as many cancellations as half of what it looks at.
        """
        self._cancelled_timers += 1
        if self._cancelled_timers > max(_MOST_CANCELLED, len(self._timers) // 2):
            self._cancelled_timers = 0
            self._timers[:] = [each for each in self._timers if not each.cancelled()]
            heapify(self._timers)

    # -- futures and tasks

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """Start a task."""
        self._refuse_if_closed()
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Run the rest of an asynchronous generator that nobody holds any more."""
        if self._is_running:
            _ = self.create_task(generator.aclose())

    # -- descriptors

    def add_reader(self, fd: _Fd, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
        """Have ``callback`` called in each turn in which ``fd`` is readable.

        Raises:
            OSError: epoll cannot watch it.
        """
        handle = asyncio.Handle(callback, args, self, None)
        self._watch(self._readers, select.EPOLLIN, self._writers, fd, handle)

    def add_writer(self, fd: _Fd, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
        """Have ``callback`` called in each turn in which ``fd`` is writable.

        Raises:
            OSError: epoll cannot watch it.
        """
        handle = asyncio.Handle(callback, args, self, None)
        self._watch(self._writers, select.EPOLLOUT, self._readers, fd, handle)

    def remove_reader(self, fd: _Fd) -> bool:
        """Watch no longer for input; return whether it was."""
        return self._unwatch(self._readers, self._writers, select.EPOLLOUT, fd)

    def remove_writer(self, fd: _Fd) -> bool:
        """Watch no longer for room; return whether it was."""
        return self._unwatch(self._writers, self._readers, select.EPOLLIN, fd)

    def _watch(
        self,
        mine: _Watched,
        what: int,
        other: _Watched,
        fd: _Fd,
        handle: asyncio.Handle,
    ) -> None:
        self._refuse_if_closed()
        number = _number(fd)
        if before := mine.get(number):
            before.cancel()
        elif number in other:
            self._epoll.modify(number, select.EPOLLIN | select.EPOLLOUT)
        else:
            self._epoll.register(number, what)
        mine[number] = handle

    def _unwatch(self, mine: _Watched, other: _Watched, rest: int, fd: _Fd) -> bool:
        number = _number(fd)
        handle = mine.pop(number, None)
        if handle is None:
            return False
        handle.cancel()
        if number in other:
            self._epoll.modify(number, rest)
        else:
            with contextlib.suppress(OSError):  # it was closed: the kernel did it
                self._epoll.unregister(number)
        return True

    # -- signals

    def add_signal_handler(
        self, sig: int, callback: Callable[[*Ts], object], *args: *Ts
    ) -> None:
        """Have ``callback`` called in the loop when a signal has come; they coalesce.

        Raises:
            RuntimeError, ValueError, OSError: it cannot be handled.
        """
        self._refuse_if_closed()
        if self._signal_pipe is None:
            self._signal_pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self.add_reader(self._signal_pipe[0], self._signalled)
        # Python writes the signal's number there; its handler has nothing to do.
        signal.set_wakeup_fd(self._signal_pipe[1])
        signal.signal(sig, _ignore)
        signal.siginterrupt(sig, False)  # noqa: FBT003  # positional only
        self._signals[sig] = asyncio.Handle(callback, args, self, None)

    def remove_signal_handler(self, sig: int) -> bool:
        """Give a signal its default meaning; return whether it had a handler."""
        if self._signals.pop(sig, None) is None:
            return False
        is_interrupt = sig == signal.SIGINT
        signal.signal(
            sig, signal.default_int_handler if is_interrupt else signal.SIG_DFL
        )
        if not self._signals:
            signal.set_wakeup_fd(-1)
        return True

    def _signalled(self) -> None:
        assert self._signal_pipe is not None
        with contextlib.suppress(BlockingIOError):
            came = os.read(self._signal_pipe[0], _SIGNALS_AT_ONCE)
            for signum in dict.fromkeys(came):
                if handle := self._signals.get(signum):
                    self._ready.append(handle)

    # -- errors

    def get_debug(self) -> bool:
        """Return that asyncio's debug mode is off."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report what nobody else can be told of."""
        self.default_exception_handler(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log it."""
        rest = "".join(
            f", {key}: {value!r}"
            for key, value in sorted(context.items())
            if key not in {"message", "exception"}
        )
        text = context.get("message") or "an exception in the event loop"
        _log.error("%s%s", text, rest, exc_info=context.get("exception"))

    def _refuse_if_closed(self) -> None:
        if self._epoll.closed:
            raise RuntimeError("the event loop is closed")


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


def _number(fd: _Fd) -> int:
    return fd if isinstance(fd, int) else fd.fileno()


def _ignore(*_: object) -> None:
    pass
