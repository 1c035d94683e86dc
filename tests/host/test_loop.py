"""Twin of dunnage.host.loop: what it does is what asyncio's own loop does.

Most tests run on both; then they say what asyncio promises.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
from tests import sockets

from dunnage.host import loop as lean

LIMIT_S = 20.0

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["stock", "lean"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on one loop, then on the other."""
    run: Run = asyncio.run if request.param == "stock" else lean.run

    async def limited(work: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(LIMIT_S):
            return await work

    return lambda work: run(limited(work))


class TestRun:
    """What `run` does with its coroutine, and at the end."""

    def test_returns_the_result(self, run: Run) -> None:
        """The coroutine's result is that of `run`."""

        async def main() -> int:
            await asyncio.sleep(0)
            return 7

        assert 7 == run(main())

    def test_raises_what_was_raised(self, run: Run) -> None:
        """An error passes through."""

        async def main() -> None:
            raise KeyError("x")

        with pytest.raises(KeyError):
            run(main())

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
    def test_ends_at_once_for_an_exit(
        self, run: Run, error: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        """SystemExit leaves the loop from any callback; tasks are still cancelled."""
        seen: list[str] = []

        async def other() -> None:
            try:
                await asyncio.sleep(LIMIT_S)
            finally:
                seen.append("cancelled")

        async def main() -> None:
            task = asyncio.create_task(other())
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(_raise, error())
            await task

        with pytest.raises(error):
            run(main())
        assert ["cancelled"] == seen
        gc.collect()
        assert [] == caplog.records

    def test_exit_of_the_task_itself_is_not_reported_as_lost(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Who raises SystemExit in the coroutine gets it, and no record says more."""

        async def main() -> None:
            await asyncio.sleep(0)
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            lean.run(main())
        gc.collect()
        assert [] == caplog.records

    def test_cancels_and_awaits_what_is_left(self, run: Run) -> None:
        """No task outlives the run, also one that takes its time to end."""
        seen: list[str] = []

        async def slow_to_end() -> None:
            try:
                await asyncio.sleep(LIMIT_S)
            except asyncio.CancelledError:
                await asyncio.sleep(0.001)
                seen.append("ended")
                raise

        async def main() -> None:
            tasks.append(asyncio.create_task(slow_to_end()))
            await asyncio.sleep(0)

        tasks: list[asyncio.Task[None]] = []
        run(main())
        assert ["ended"] == seen
        assert tasks[0].cancelled()

    def test_reports_what_fails_while_cancelled(
        self, run: Run, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An error of a task that nobody waits for is logged at the end."""

        async def fails() -> None:
            try:
                await asyncio.sleep(LIMIT_S)
            finally:
                raise KeyError("lost")

        async def main() -> None:
            tasks.append(asyncio.create_task(fails()))
            await asyncio.sleep(0)

        tasks: list[asyncio.Task[None]] = []
        run(main())
        (record,) = caplog.records
        assert record.exc_info
        assert isinstance(record.exc_info[1], KeyError)

    def test_is_the_running_loop_only_meanwhile(self) -> None:
        """It can be asked for while it runs; afterwards it is closed."""
        loops: list[asyncio.AbstractEventLoop] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loops.append(loop)
            assert isinstance(loop, lean.Loop)
            assert loop.is_running()
            assert not loop.is_closed()
            assert not loop.get_debug()
            with pytest.raises(RuntimeError):
                loop.close()

        lean.run(main())
        assert not loops[0].is_running()
        assert loops[0].is_closed()
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        with pytest.raises(RuntimeError):
            loops[0].call_soon(print)
        with pytest.raises(RuntimeError):
            loops[0].call_later(1, print)

    def test_runs_in_no_other_loop(self, run: Run) -> None:
        """A loop in a loop is refused, and so is what is no coroutine."""

        async def nothing() -> None:
            pass

        async def main() -> None:
            inner = nothing()
            with pytest.raises(RuntimeError):
                lean.run(inner)
            inner.close()

        run(main())
        with pytest.raises(ValueError, match="coroutine"):
            lean.run(lambda: None)  # type: ignore[arg-type]

    def test_closes_all_that_it_opened(self) -> None:
        """No descriptor, handler or hook is left, nor anything for the collector."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, print)
            loop.add_signal_handler(signal.SIGINT, print)
            loop.call_later(LIMIT_S, print)
            await asyncio.sleep(0.001)

        lean.run(main())
        before = os.listdir("/proc/self/fd")
        handler = signal.getsignal(signal.SIGINT)
        gc.collect()
        gc.disable()
        try:
            lean.run(main())
            assert 0 == gc.collect()
        finally:
            gc.enable()
        assert before == os.listdir("/proc/self/fd")
        assert signal.SIG_DFL == signal.getsignal(signal.SIGUSR1)
        assert signal.default_int_handler == handler
        assert (None, None) == tuple(sys.get_asyncgen_hooks())
        assert -1 == signal.set_wakeup_fd(-1)

    def test_what_is_not_offered_says_so(self) -> None:
        """The interface of asyncio is larger: the rest is refused."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            with pytest.raises(NotImplementedError):
                loop.stop()
            with pytest.raises(NotImplementedError):
                await loop.run_in_executor(None, print)

        lean.run(main())

    def test_in_a_forked_child(self) -> None:
        """A child of a process that has used one can use its own."""

        async def main() -> int:
            await asyncio.sleep(0)
            return 7

        assert 7 == lean.run(main())
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = lean.run(main())
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert 7 == os.waitstatus_to_exitcode(status)


class TestCallbacks:
    """Order, contexts, timers."""

    def test_a_turn_runs_what_was_ready_before_it(self, run: Run) -> None:
        """Fair: what a callback makes ready waits for the next turn."""
        seen: list[str] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            ended = loop.create_future()

            def first(turn: int) -> None:
                seen.append(f"first {turn}")
                if turn < 2:
                    loop.call_soon(first, turn + 1)
                else:
                    ended.set_result(None)

            loop.call_soon(first, 0)
            loop.call_soon(seen.append, "second")
            loop.call_soon(seen.append, "never").cancel()
            await ended

        run(main())
        assert ["first 0", "second", "first 1", "first 2"] == seen

    def test_a_busy_loop_still_reads_and_keeps_time(self, run: Run) -> None:
        """Callbacks that are always ready starve neither descriptors nor timers."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                spinning = True

                def spin() -> None:
                    if spinning:
                        loop.call_soon(spin)

                spin()
                theirs.send(b"x")
                assert b"x" == await sockets.recv(ours, 1)
                await asyncio.sleep(0.001)
                spinning = False

        run(main())

    def test_timers_run_in_the_order_of_their_times(self, run: Run) -> None:
        """Whatever the order in which they were made; none too early."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            seen: list[float] = []
            times = [loop.time() + i / 10_000 for i in range(100)]
            ended = loop.create_future()

            def note(when: float) -> None:
                assert loop.time() >= when
                seen.append(when)
                if len(seen) == len(times):
                    ended.set_result(None)

            for when in random.sample(times, len(times)):
                timer = loop.call_at(when, note, when)
                assert timer.when() == when
            await ended
            assert times == seen

        run(main())

    def test_cancelled_timers_are_dropped_when_many(self) -> None:
        """What lies around is bounded, and no live timer is lost."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, lean.Loop)
            seen: list[str] = []
            loop.call_later(0.002, seen.append, "live")
            for _ in range(1000):
                loop.call_later(LIMIT_S, print).cancel()
                assert len(loop._timers) < 40
            while not seen:
                await asyncio.sleep(0.001)
            assert len(loop._timers) < 40

        lean.run(main())

    def test_a_timer_that_ran_may_be_cancelled(self, run: Run) -> None:
        """Cancelling late is harmless, also from within."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            ended = loop.create_future()
            timers: list[asyncio.TimerHandle] = []

            def cancel_itself() -> None:
                timers[0].cancel()
                ended.set_result(7)

            timers.append(loop.call_later(0, cancel_itself))
            assert 7 == await ended
            timers[0].cancel()
            for _ in range(100):
                late = loop.call_later(0, int)
                await asyncio.sleep(0)
                late.cancel()

        run(main())

    def test_contexts(self, run: Run) -> None:
        """A callback sees the context in which it was made, or the one given."""
        word: ContextVar[str] = ContextVar("word", default="none")
        seen: list[str] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            word.set("outer")
            loop.call_soon(lambda: seen.append(word.get()))
            loop.call_later(0, lambda: seen.append(word.get()))
            word.set("later")
            task = loop.create_task(_get(word))
            assert "later" == await task
            await asyncio.sleep(0.001)

        run(main())
        assert ["outer", "outer"] == seen

    def test_a_callback_that_fails_is_logged(
        self, run: Run, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The loop goes on; the record has the error."""

        async def main() -> None:
            asyncio.get_running_loop().call_soon(_raise, KeyError("x"))
            await asyncio.sleep(0.001)

        with caplog.at_level(logging.ERROR):
            run(main())
        (record,) = caplog.records
        assert record.exc_info
        assert isinstance(record.exc_info[1], KeyError)

    def test_a_lost_generator_is_closed(self, run: Run) -> None:
        """What an asynchronous generator has to await at its end is awaited."""
        seen: list[str] = []

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                seen.append("closed")

        async def main() -> None:
            async for _ in numbers():
                break
            while not seen:
                await asyncio.sleep(0)

        run(main())


class TestAsyncio:
    """asyncio's own parts work on it."""

    def test_timeout_and_shield(self, run: Run) -> None:
        """A timeout cancels what waits, not what is shielded."""

        async def main() -> None:
            work = asyncio.create_task(asyncio.sleep(0.01, 7))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.shield(work)
            async with asyncio.timeout(None) as limit:
                limit.reschedule(asyncio.get_running_loop().time() + LIMIT_S)
                assert 7 == await work

        run(main())

    def test_locks_are_given_in_turn(self, run: Run) -> None:
        """Lock, event, gather, wait and task groups."""
        seen: list[int] = []

        async def main() -> None:
            lock, event = asyncio.Lock(), asyncio.Event()

            async def one(number: int) -> int:
                await event.wait()
                async with lock:
                    await asyncio.sleep(0)
                    seen.append(number)
                return number

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(i), name=f"{i}") for i in range(3)]
                await asyncio.sleep(0)
                event.set()
            assert ["0", "1", "2"] == [task.get_name() for task in tasks]
            assert [0, 1, 2] == seen
            both = await asyncio.gather(one(3), one(4))
            assert [3, 4] == list(both)
            done, left = await asyncio.wait(tasks)
            assert (3, 0) == (len(done), len(left))
            later = asyncio.create_task(asyncio.sleep(LIMIT_S))
            assert (set(), {later}) == await asyncio.wait([later], timeout=0.001)
            everything: set[asyncio.Task[Any]] = asyncio.all_tasks()
            assert later in everything
            assert asyncio.current_task() in everything

        run(main())

    def test_wait_for_and_queues(self, run: Run) -> None:
        """A queue between tasks, with a limit."""

        async def main() -> None:
            queue: asyncio.Queue[int] = asyncio.Queue(1)
            putting = [asyncio.create_task(queue.put(i)) for i in range(3)]
            got = [await asyncio.wait_for(queue.get(), LIMIT_S) for _ in putting]
            assert [0, 1, 2] == got
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queue.get(), 0.001)

        run(main())


class TestDescriptors:
    """Watching what can be read and written."""

    def test_return_values(self, run: Run) -> None:
        """Removing says whether there was something to remove."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                assert not loop.remove_reader(ours)
                assert not loop.remove_writer(ours.fileno())
                loop.add_reader(ours, print)
                loop.add_writer(ours.fileno(), int)
                assert not loop.remove_writer(theirs)
                assert loop.remove_reader(ours.fileno())
                assert loop.remove_writer(ours)
                assert not loop.remove_writer(ours)

        run(main())

    def test_reading_and_writing_at_once(self, run: Run) -> None:
        """Each is watched for itself, in any order of adding and removing."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                seen: list[str] = []
                loop.add_reader(ours, seen.append, "r")
                await _turns(3)
                assert [] == seen
                loop.add_writer(ours, seen.append, "w")
                await _until(lambda: seen)
                assert {"w"} == set(seen)
                theirs.send(b"x")
                seen.clear()
                await _until(lambda: "rw" in "".join(seen))
                loop.remove_writer(ours)
                seen.clear()
                await _until(lambda: seen)
                assert {"r"} == set(seen)
                loop.remove_reader(ours)
                seen.clear()
                await _turns(3)
                assert [] == seen

        run(main())

    def test_the_last_callback_counts(self, run: Run) -> None:
        """Adding again replaces, also one that is ready in this very turn."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                seen: list[str] = []
                theirs.send(b"x")
                loop.add_reader(ours, seen.append, "first")
                loop.add_reader(ours, seen.append, "second")
                await _until(lambda: seen)
                assert {"second"} == set(seen)
                loop.remove_reader(ours)

        run(main())

    def test_removed_in_the_same_turn(self, run: Run) -> None:
        """A callback that another of the same turn removes is not called."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            pairs = [socket.socketpair() for _ in range(2)]
            seen: list[int] = []

            def take(number: int) -> None:
                seen.append(number)
                for ours, _ in pairs:
                    loop.remove_reader(ours)

            for number, (ours, theirs) in enumerate(pairs):
                theirs.send(b"x")
                loop.add_reader(ours, take, number)
            await _until(lambda: seen)
            await _turns(3)
            assert 1 == len(seen)
            for pair in pairs:
                for each in pair:
                    each.close()

        run(main())

    def test_a_peer_that_goes_wakes_both(self, run: Run) -> None:
        """The end of a connection is readable, and writable."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            read, write = os.pipe2(os.O_NONBLOCK)
            seen: list[str] = []
            os.write(write, bytes(1 << 16))  # full
            loop.add_writer(write, seen.append, "w")
            await _turns(3)
            assert [] == seen
            os.close(read)
            await _until(lambda: seen)
            loop.remove_writer(write)
            os.close(write)

        run(main())

    def test_closed_before_it_was_removed(self, run: Run) -> None:
        """A descriptor's number may be watched again."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            fd = ours.fileno()
            loop.add_reader(fd, print)
            ours.close()
            assert loop.remove_reader(fd)
            with theirs:
                again = os.dup(theirs.fileno())
                seen: list[str] = []
                loop.add_reader(again, seen.append, "end")
                await _until(lambda: seen)
                assert loop.remove_reader(again)
                os.close(again)

        run(main())

    def test_a_plain_file_is_refused(self, run: Run) -> None:
        """Files cannot be watched; nothing is left of the attempt."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            with open(__file__, "rb") as file, pytest.raises(PermissionError):
                loop.add_reader(file, print)
            assert not loop.remove_reader(file.fileno() if not file.closed else 0)

        run(main())


class TestSignals:
    """Signals are heard in the loop."""

    def test_a_signal_wakes_a_loop_that_sleeps(self, run: Run) -> None:
        """Also when it comes from outside, while nothing else is to be done."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            came = asyncio.Event()
            loop.add_signal_handler(signal.SIGUSR1, came.set)
            with subprocess.Popen(["/bin/sh", "-c", f"kill -USR1 {os.getpid()}"]):
                await came.wait()
            assert loop.remove_signal_handler(signal.SIGUSR1)
            assert not loop.remove_signal_handler(signal.SIGUSR1)
            assert signal.SIG_DFL == signal.getsignal(signal.SIGUSR1)

        run(main())

    def test_many_signals_and_their_arguments(self, run: Run) -> None:
        """Each kind is heard at least once, and not in the middle of a callback."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            seen: list[str] = []
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "one")
            loop.add_signal_handler(signal.SIGUSR2, seen.append, "two")
            for _ in range(100):
                os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGUSR2)
            assert [] == seen
            await _until(lambda: len(set(seen)) == 2)
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "other")
            os.kill(os.getpid(), signal.SIGUSR1)
            await _until(lambda: "other" in seen)

        run(main())

    def test_signals_coalesce(self) -> None:
        """A hundred that came together are one call."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            seen: list[str] = []
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "one")
            for _ in range(100):
                os.kill(os.getpid(), signal.SIGUSR1)
            await _until(lambda: seen)
            await _turns(3)
            assert ["one"] == seen

        lean.run(main())

    def test_what_cannot_be_handled(self, run: Run) -> None:
        """SIGKILL has no handler."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            with pytest.raises((RuntimeError, OSError)):
                loop.add_signal_handler(signal.SIGKILL, print)

        run(main())


def _raise(error: BaseException) -> None:
    raise error


async def _get(word: ContextVar[str]) -> str:
    return word.get()


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.0001)
