"""Tests of `dunnage.host.procs.idling`: what works while nobody else does."""

from __future__ import annotations

import os
from collections.abc import Callable

from dunnage.host.procs import idling
from dunnage.host.procs.spawn import fork_child

NOBODY = 65534


def status_of(body: Callable[[], None]) -> int:
    """Run it in a child; return how that ended."""
    _, status = os.waitpid(fork_child(body), 0)
    return status


def test_it_begins_and_ends() -> None:
    """Ended from outside, too: by who has work for it."""
    receiving, sending = os.pipe()
    going, go = os.pipe()

    def body() -> None:
        idling.begin()
        os.write(sending, b"x")
        os.read(going, 1)
        assert os.SCHED_OTHER == os.sched_getscheduler(0)
        idling.begin()
        idling.end()
        assert os.SCHED_OTHER == os.sched_getscheduler(0)

    assert idling.is_possible()
    pid = fork_child(body)
    os.read(receiving, 1)
    assert os.SCHED_IDLE == os.sched_getscheduler(pid)
    idling.end(pid)
    os.write(go, b"x")
    assert 0 == os.waitpid(pid, 0)[1]
    for fd in (receiving, sending, going, go):
        os.close(fd)
    idling.end(pid)  # gone: nothing happens


def test_who_may_not_end_it_does_not_begin() -> None:
    """Without rights it would be for good."""

    def body() -> None:
        os.setuid(NOBODY)
        assert not idling.is_possible()
        assert os.SCHED_OTHER == os.sched_getscheduler(0)

    assert 0 == status_of(body)


def test_who_was_told_otherwise_keeps_it() -> None:
    """A server that is of another class itself leaves that to its forks."""

    def body() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        assert not idling.is_possible()

    assert 0 == status_of(body)
