"""The kernel's merging of equal pages (KSM): on for a while, then as it was before."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

KSM: Final = Path("/sys/kernel/mm/ksm")
_BRISK: Final = {"pages_to_scan": "20000", "sleep_millisecs": "10"}
_SCANS: Final = 4
"""A page is merged in the second scan that finds it unchanged, at the earliest."""
_LIMIT_S: Final = 120.0


@contextlib.contextmanager
def merging(directory: Path = KSM) -> Iterator[None]:
    """Have pages merged, briskly; whatever happens, put all settings back.

    Where it was off before, what was merged is taken apart again.
    """
    before = {name: _read(directory, name) for name in ("run", *_BRISK)}
    try:
        for name, value in _BRISK.items():
            _write(directory, name, value)
        _write(directory, "run", "1")
        yield
    finally:
        for name in _BRISK:
            _write(directory, name, before[name])
        if before["run"] != "1":
            _write(directory, "run", "2")
        _write(directory, "run", before["run"])


def settle(directory: Path = KSM) -> None:
    """Wait until whole scans have found nothing more to merge."""
    end = time.monotonic() + _LIMIT_S
    shared = -1
    while time.monotonic() < end:
        now = _count(directory, "pages_sharing")
        if abs(now - shared) <= now // 100:
            return
        shared = now
        until = _count(directory, "full_scans") + _SCANS
        while _count(directory, "full_scans") < until and time.monotonic() < end:
            time.sleep(0.05)


def _read(directory: Path, name: str) -> str:
    return (directory / name).read_text().strip()


def _write(directory: Path, name: str, value: str) -> None:
    (directory / name).write_text(value)


def _count(directory: Path, name: str) -> int:
    return int(_read(directory, name))
