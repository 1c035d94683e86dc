"""Whom a shim waits for: how long, and what happens when nobody comes."""

from __future__ import annotations

import asyncio

import pytest

from dunnage.shim import expected as expected_module
from dunnage.shim.expected import EXPECTED_S, Expected

from .harness import LIMIT_S, in_loop


class World:
    """The time, and how many connections are open."""

    def __init__(self) -> None:
        self.now = 100.0
        self.connections = 0
        self.expected = Expected(lambda: self.connections, lambda: self.now)


def test_each_is_waited_for_until_it_comes() -> None:
    """kept-for-those-who-come: one that came, or never was to, speaks for no other."""
    world = World()
    assert not world.expected.anybody()
    for container in ("a", "b", "a"):
        world.expected.add(container)
    for container in ("a", "x"):
        world.expected.withdraw(container)
        assert world.expected.anybody()
    world.expected.come("b")
    assert not world.expected.anybody()


def test_nobody_is_waited_for_for_ever() -> None:
    """Each has its own time, which begins anew when it is announced again."""
    world = World()
    world.expected.add("a")
    world.now += EXPECTED_S - 1
    world.expected.add("b")
    world.now += 1
    assert world.expected.anybody()  # b
    world.expected.add("b")
    world.now += EXPECTED_S - 1
    assert world.expected.anybody()
    world.now += 1
    assert not world.expected.anybody()


def test_time_counts_only_without_a_connection() -> None:
    """A daemon that is connected may be paused for as long as it likes."""
    world = World()
    world.expected.add("a")
    world.connections = 1
    for _ in range(3):
        world.now += 10 * EXPECTED_S
        assert world.expected.anybody()
    world.connections = 0
    world.now += EXPECTED_S - 1
    assert world.expected.anybody()
    world.now += 1
    assert not world.expected.anybody()


@in_loop
async def test_the_last_wait_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks to hear of it hears once, however often it has asked, and not before."""
    monkeypatch.setattr(expected_module, "_LOOK_S", 0.001)
    world, heard = World(), asyncio.Event()
    calls = []

    def hear() -> None:
        calls.append(world.now)
        heard.set()

    world.expected.add("a")
    looked = 0
    plain = world.expected.anybody

    def anybody() -> bool:
        nonlocal looked
        looked += 1
        if looked == 5:
            world.now += EXPECTED_S
        return plain()

    monkeypatch.setattr(world.expected, "anybody", anybody)
    for _ in range(3):
        world.expected.when_nobody(hear)
    await asyncio.wait_for(heard.wait(), LIMIT_S)
    assert ([100.0 + EXPECTED_S], 5) == (calls, looked)


@in_loop
async def test_who_comes_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited for the last to give up hears nothing when that one came."""
    monkeypatch.setattr(expected_module, "_LOOK_S", 0.001)
    world, looks = World(), 0
    plain = world.expected.anybody

    def anybody() -> bool:
        nonlocal looks
        looks += 1
        return plain()

    monkeypatch.setattr(world.expected, "anybody", anybody)
    told: list[str] = []
    world.expected.add("a")
    world.expected.when_nobody(lambda: told.append("nobody"))
    world.expected.come("a")
    # Another's wait has its looks, and the first one's would have been before them.
    world.expected.add("b")
    world.expected.when_nobody(lambda: told.append("b"))
    async with asyncio.timeout(LIMIT_S):
        while looks < 3:
            await asyncio.sleep(0)
        world.expected.withdraw("b")
        while not told:
            await asyncio.sleep(0)
    assert told == ["b"]
