"""Launchers, compiled once, each test's in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import build
from .scene import Scene


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what was compiled."""
    folder = tmp_path_factory.mktemp("launchers")
    build.build(folder / "patient", *build.PATIENT)
    build.build(folder / "hasty", *build.HASTY)
    build.build(folder / "odd", sources=[build.ODD])
    return folder


@pytest.fixture
def scene(programs: Path, tmp_path: Path) -> Iterator[Scene]:
    """Return a launcher that waits for everybody."""
    with Scene(tmp_path, programs / "patient", programs / "odd") as scene:
        yield scene


@pytest.fixture
def hasty(programs: Path, tmp_path: Path) -> Iterator[Scene]:
    """Return a launcher that waits for nobody for long."""
    with Scene(tmp_path / "hasty", programs / "hasty", programs / "odd") as scene:
        yield scene
