"""OOM kills of each kind, a few."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .ooms import many

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_each_is_told_once_and_in_time(tmp_path: Path, runtime: str) -> None:
    """None is missed, none is late, none is told of who has lost nothing."""
    assert [] == asyncio.run(many(tmp_path, runtime, 5)).faults
