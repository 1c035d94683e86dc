"""The daemon goes away while processes exit, in a shorter form than ``script/stress``.

The same code with fewer exits and no waiting: an outage lasts as long as its exits
take, a hundred where the daemon is away, and fewer where it is there and complains.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .outage import FAULTS, Outage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", FAULTS)
def test_everything_is_said_in_the_end(tmp_path: Path, fault: str) -> None:
    """fifo: once, in order, with its own time; and no call waits for the daemon."""
    away = {"killed": 100, "hangs": 100, "loses": 100}
    exits = {**away, "late": 5}.get(fault, 20)
    runtime = "runc" if fault in {*away, "refuses-2"} else "crun"
    outage = Outage(tmp_path, fault, exits, 0.0, runtime)

    assert [] == asyncio.run(outage.run())
    assert 4 + 4 * exits == outage.events
