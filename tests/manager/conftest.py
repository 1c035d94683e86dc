"""Fixtures: places of a test's own."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

from dunnage.manager.places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def places() -> Iterator[Places]:
    """Directories with a path short enough for sockets; what makes them makes more."""
    directory = tempfile.mkdtemp(prefix="d-", dir="/tmp")
    yield Places.make("test", f"{directory}/s", f"{directory}/r")
    shutil.rmtree(directory)
