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
_STILL_S: Final = 3.0
"""After so long without a page scanned, nobody's pages are to be merged."""


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
    """Wait until whole scans have found nothing more to merge.

    The kernel does not scan where nobody has asked for it: then there is nothing to
    wait for.
    """
    end = time.monotonic() + _LIMIT_S
    shared = -1
    while time.monotonic() < end:
        now = _count(directory, "pages_sharing")
        if abs(now - shared) <= now // 100:
            return
        shared = now
        if not _scans(directory):
            return


def _scans(directory: Path) -> bool:
    """Wait for some whole scans; return False if none is made."""
    end = time.monotonic() + _STILL_S
    until = _count(directory, "full_scans") + _SCANS
    pages = -1
    while (done := _count(directory, "full_scans")) < until:
        at = done + _count(directory, "pages_scanned")
        if at != pages:
            pages, end = at, time.monotonic() + _STILL_S
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _read(directory: Path, name: str) -> str:
    return (directory / name).read_text().strip()


def _write(directory: Path, name: str, value: str) -> None:
    (directory / name).write_text(value)


def _count(directory: Path, name: str) -> int:
    return int(_read(directory, name))
