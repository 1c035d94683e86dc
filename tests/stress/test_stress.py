"""Many lives at once, in a smaller form than ``script/stress``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .load import Amount, Load

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("pods", [False, True], ids=["a shim each", "pods"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_short_lives_side_by_side(tmp_path: Path, runtime: str, pods: bool) -> None:
    """Every event there, none twice, none out of order, nothing left behind."""
    load = Load(tmp_path, runtime, pods, Amount(short=16, execs=20, dying=6), seed=4)

    assert [] == asyncio.run(load.run())
    assert load.events > 200
