"""Both loops that the library promises to run on: asyncio's own, and the shim's.

A conftest.py that imports `each_loop` has every test below it run on both.
"""

from __future__ import annotations

import asyncio

import pytest

from dunnage.host import loop


@pytest.fixture(params=["stock", "lean"], autouse=True)
def each_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what the test gives to `asyncio.run` on one loop, then on the other."""
    if request.param == "lean":
        monkeypatch.setattr(asyncio, "run", loop.run)
