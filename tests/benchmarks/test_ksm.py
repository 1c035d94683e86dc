"""The twin of benchmarks/ksm.py, on a directory of our own."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from benchmarks import ksm

SETTINGS = {"pages_to_scan": "100", "sleep_millisecs": "20", "run": "0"}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Settings of a host whose KSM is off."""
    for name, value in SETTINGS.items():
        (tmp_path / name).write_text(f"{value}\n")
    return tmp_path


def test_settings_are_put_back_after_a_failure(host: Path) -> None:
    """What was on in the block is as before after it, however it ends."""
    was = ""
    with contextlib.suppress(KeyboardInterrupt), ksm.merging(host):
        was = (host / "run").read_text()
        raise KeyboardInterrupt

    assert "1" == was
    assert SETTINGS == {name: (host / name).read_text() for name in SETTINGS}
