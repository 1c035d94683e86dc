"""Tests of `dunnage.shim.rest`: one look after the last stir, and none after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.shim.harness import in_loop

from dunnage.shim import rest

QUIET_S = 0.05


def watched(patch: pytest.MonkeyPatch) -> tuple[list[float], list[asyncio.TimerHandle]]:
    """Return when something was given back, and the timers that were set."""
    given: list[float] = []
    timers: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    later = loop.call_later

    def call_later(delay: float, what: Callable[[], None]) -> asyncio.TimerHandle:
        timers.append(later(delay, what))
        return timers[-1]

    # Those of asyncio itself are set by call_at.
    patch.setattr(loop, "call_later", call_later)
    patch.setattr(rest, "give_back", lambda: given.append(loop.time()))
    return given, timers


async def over(timers: list[asyncio.TimerHandle]) -> None:
    """Wait until no timer is set."""
    now = asyncio.get_running_loop().time
    sleep = asyncio.Event()
    handle = asyncio.get_running_loop().call_at(
        max(timer.when() for timer in timers) + QUIET_S, sleep.set
    )
    await sleep.wait()
    assert all(timer.when() <= now() for timer in timers)
    handle.cancel()


@in_loop
async def test_it_gives_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is stirred there is one timer; none after it."""
    given, timers = watched(monkeypatch)
    resting = rest.Rest(lambda: False, QUIET_S)
    last = asyncio.get_running_loop().time()
    for _ in range(100):
        resting.stir()
    assert 1 == len(timers)
    async with asyncio.timeout(10):
        while not given:
            await asyncio.sleep(0)
    assert given[0] >= last + QUIET_S
    count = len(timers)
    await over(timers)
    assert count == len(timers)
    assert 1 == len(given)


@in_loop
async def test_not_in_the_midst_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end stirs again."""
    given, timers = watched(monkeypatch)
    working = [True]
    resting = rest.Rest(lambda: bool(working), QUIET_S)
    resting.stir()
    await over(timers)
    assert not given
    working.clear()
    resting.stir()
    async with asyncio.timeout(10):
        while not given:
            await asyncio.sleep(0)


@in_loop
async def test_closed_it_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """And may be closed twice."""
    given, timers = watched(monkeypatch)
    resting = rest.Rest(lambda: False, QUIET_S)
    resting.stir()
    resting.close()
    resting.close()
    await over(timers)
    assert not given


def test_without_a_parent_that_shared_it_only_trims() -> None:
    """As in a shim that was started cold."""
    rest.give_back()
