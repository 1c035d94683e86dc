"""Fork servers of a test's own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.machine import end_forkservers, forkservers

from .conversation import end


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Return where this test's servers are; they end with it."""
    path = tmp_path / "f"
    yield path
    for pid in forkservers(path):
        end(pid, signal.SIGCONT)
    end_forkservers(path)
