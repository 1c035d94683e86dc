"""Fifos as clients make them, and processes that end with their test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.host.stdio.clients import Processes
from tests.loops import each_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["each_loop"]


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Processes that end with the test."""
    running = Processes()
    yield running
    for process in running.started:
        process.kill()
        process.wait()


@pytest.fixture
def fifo(tmp_path: Path) -> Callable[[str], Path]:
    """Make fifos."""

    def make(name: str) -> Path:
        path = tmp_path / name
        os.mkfifo(path, 0o700)
        return path

    return make
