"""Tests of `benchmarks.procs`."""

from __future__ import annotations

import os
import threading

from benchmarks.procs import Work, between, work


def test_who_ended_takes_nothing_away() -> None:
    """Of the others it is what they did; of one that began, all."""
    before = {"a": Work(10, 1), "gone": Work(100, 50)}
    after = {"a": Work(13, 2), "new": Work(5, 4)}
    assert Work(8, 5) == between(before, after)


def test_each_thread_is_seen() -> None:
    """With what it did."""
    ending = threading.Event()
    thread = threading.Thread(target=ending.wait)
    thread.start()
    try:
        found = work([os.getpid()])
        names = {
            f"/proc/{os.getpid()}/task/{id_}" for id_ in os.listdir("/proc/self/task")
        }
        assert names == set(found)
        assert found[f"/proc/{os.getpid()}/task/{os.getpid()}"].cpu_ns > 0
    finally:
        ending.set()
        thread.join()
