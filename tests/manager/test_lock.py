"""One manager at a time."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

from dunnage.manager import bundles
from dunnage.manager.lock import locked, maybe_locked

if TYPE_CHECKING:
    from dunnage.manager.places import Places


def test_the_second_waits(places: Places) -> None:
    """While one holds it another has it not; then it has it, and sees what is left."""

    async def scenario() -> None:
        bundle = bundles.create(places, "c", b"{}")
        async with locked(bundle) as is_there:
            assert is_there
            with maybe_locked(bundle) as other:
                assert other is None
            waiting = asyncio.create_task(_is_there(bundle))
            await asyncio.sleep(0)
            bundles.delete(bundle)
        assert await waiting is False

    asyncio.run(scenario())


async def _is_there(bundle: bundles.Bundle) -> bool:
    async with locked(bundle) as is_there:
        return is_there


def test_a_successor_is_another(places: Places) -> None:
    """Who waited for a task finds that it is gone, also if its name is used again."""
    bundle = bundles.create(places, "c", b"{}")
    with maybe_locked(bundle) as is_there:
        assert is_there
        bundles.delete(bundle)
        bundles.create(places, "c", b"{}")
        with maybe_locked(bundle) as successor:
            assert successor


def test_a_lost_work_directory_is_no_hindrance(places: Places) -> None:
    """A bundle that a crash left alone can be locked all the same."""
    bundle = bundles.create(places, "c", b"{}")
    shutil.rmtree(bundle.work)
    with maybe_locked(bundle) as is_there:
        assert is_there
