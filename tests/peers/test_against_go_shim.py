"""Every answer of ours beside that of containerd's Go shim, driven the same way.

What both answer, and where they differ and why, is in `situations`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.shim.harness import OURS, Shim

from .answers import CRASH, Asker
from .daemon import peer
from .events_of_a_life import LIFE, LIFE_EVENTS, OURS_ALONE
from .questions import Row, Situation
from .situations_create import ON_CREATE
from .situations_exec import ON_EXEC
from .situations_init import ON_INIT

pytestmark = pytest.mark.slow

SITUATIONS = [*ON_INIT, *ON_EXEC, *ON_CREATE]


def shims(directory: Path) -> tuple[Shim, Shim, Shim]:
    """Return ours, the Go shim, and ours with crun."""
    stock = peer("containerd-1.6", "containerd-shim-runc-v2")
    for name in ("ours", "stock", "crun"):
        (directory / name).mkdir()
    return (
        Shim(directory / "ours", binary=OURS),
        Shim(directory / "stock", binary=stock),
        Shim(directory / "crun", binary=OURS, runtime="crun"),
    )


async def answers(situation: Situation, shim: Shim) -> list[str]:
    """Bring a container into a situation; return the answers to its rows."""
    async with shim, Asker(shim) as asker:
        for call in situation.given:
            await asker.answer(call)
        return [await asker.answer(row.call) for row in situation.rows]


def beside(rows: list[Row], texts: list[str]) -> list[str]:
    """Return each answer with the name of its question, for a diff to be read."""
    return [f"{row.call.name}: {text}" for row, text in zip(rows, texts, strict=True)]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda it: it.name)
def test_both_shims_answer_as_the_table_says(
    situation: Situation, tmp_path: Path
) -> None:
    """The codes and texts are the Go shim's; every difference is listed, and real."""

    async def main() -> list[list[str]]:
        return await asyncio.gather(
            *(answers(situation, shim) for shim in shims(tmp_path))
        )

    ours, stock, crun = asyncio.run(main())
    rows = situation.rows
    assert beside(rows, [row.with_runc for row in rows]) == beside(rows, ours)
    assert beside(rows, [row.of_stock for row in rows]) == beside(rows, stock)
    # Of the texts that are the runtime's own, what is before them.
    crun = [text[: row.ours_ends(text)] for row, text in zip(rows, crun, strict=True)]
    assert beside(rows, [row.with_crun for row in rows]) == beside(rows, crun)


def test_both_shims_say_the_same_events(tmp_path: Path) -> None:
    """One life with an exec, field by field; what only ours says is listed."""

    async def live(shim: Shim, count: int) -> list[str]:
        async with shim, Asker(shim) as asker:
            for call in LIFE:
                await asker.answer(call)
            await shim.wait_events(count)
            times = [envelope.timestamp.ToNanoseconds() for envelope in shim.events]
            assert sorted(times) == times
            return [asker.event(envelope) for envelope in shim.events]

    async def main() -> list[list[str]]:
        everything, common = len(LIFE_EVENTS), len(LIFE_EVENTS) - len(OURS_ALONE)
        counts = (everything, common, everything)
        return await asyncio.gather(*map(live, shims(tmp_path), counts))

    ours, stock, crun = asyncio.run(main())
    assert LIFE_EVENTS == ours
    assert [it for it in LIFE_EVENTS if it not in OURS_ALONE] == stock
    assert LIFE_EVENTS == crun


def test_the_table_is_sound() -> None:
    """Names tell rows apart, a difference has a reason, and nothing follows a crash."""
    for situation in SITUATIONS:
        names = [row.call.name for row in situation.rows]
        assert sorted(set(names)) == sorted(names), situation.name
        for row in situation.rows:
            assert bool(row.stock) == bool(row.why), row
            assert row.stock != row.with_runc, row
            assert row.stock != CRASH or row is situation.rows[-1], row
