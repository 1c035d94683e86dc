"""Signals are read, kept, sent on."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from dunnage.cli.signals import Forwarding, parse
from dunnage.errors import InvalidArgument, NotFound


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigkill", 9), ("term", 15), ("64", 64)],
)
def test_parse(text: str, number: int) -> None:
    """A signal has a number, and a name with or without SIG."""
    assert parse(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-9", "FOO", "SIG", "1.0", "\u0663", "²"]
)
def test_parse_nonsense(text: str) -> None:
    """What is no signal is refused."""
    with pytest.raises(InvalidArgument, match="unknown signal"):
        parse(text)


def test_kept_until_there_is_somebody() -> None:
    """What comes before the process is there reaches it afterwards, in order."""

    async def scenario() -> list[int]:
        got: list[int] = []

        async def kill(number: int) -> None:
            got.append(number)
            raise NotFound("gone")

        with Forwarding() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.01)
            signals.begin(kill)
            os.kill(os.getpid(), signal.SIGINT)
            async with asyncio.timeout(10):
                while len(got) < 3:
                    await asyncio.sleep(0)
        return got

    got = asyncio.run(scenario())
    assert sorted(got[:2]) == [signal.SIGHUP, signal.SIGTERM]
    assert got[2] == signal.SIGKILL


def test_third_cancels_what_has_not_begun() -> None:
    """Where there is nothing to kill, the third signal gives up."""

    async def scenario() -> None:
        with Forwarding() as signals:
            for _ in range(3):
                signals._on_signal(signal.SIGINT)
            await asyncio.sleep(10)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())


def test_over() -> None:
    """After the block signals are nobody's any more."""

    async def scenario() -> None:
        with Forwarding():
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    asyncio.run(scenario())
