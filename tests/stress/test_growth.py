"""No growth: 500 lives in a shim; ``script/stress --growth 10000`` leads more."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from .growth import Footprint, a_shim, grown

WARM_UP = 60
"""Until the last pool is filled, the last code path taken once."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counted", "lives"), [(False, 500), (True, 200)], ids=["warm", "counted"]
)
def test_lives_leave_the_shim_as_it_was(
    tmp_path: Path, counted: bool, lives: int
) -> None:
    """Memory, objects, fds, children, threads and state are as before."""

    async def run() -> list[str]:
        async with a_shim(tmp_path, "crun", counted=counted) as growth:
            before = await growth.lives(WARM_UP)
            return grown(before, await growth.lives(lives), lives)

    assert [] == asyncio.run(run())


def test_each_kind_of_growth_is_named() -> None:
    """More memory, more objects of a type, another fd, child, thread or file."""
    before = Footprint(16 << 20, {"Entry": 1, "dict": 9}, (("/dev/null", 2),), 1, 1, ())
    after = [
        (replace(before, anonymous_bytes=18 << 20), "memory: 2097152 bytes more"),
        (replace(before, objects={"Entry": 501}), "objects: 500 more of Entry"),
        (replace(before, fds=(("/dev/null", 3),)), "fds:"),
        (replace(before, children=2), "children: 1, now 2"),
        (replace(before, threads=2), "threads: 1, now 2"),
        (replace(before, files=("/run/c",)), "files: (), now ('/run/c',)"),
    ]
    assert [] == grown(before, before, 500)
    for footprint, text in after:
        (fault,) = grown(before, footprint, 500)
        assert fault.startswith(text)
