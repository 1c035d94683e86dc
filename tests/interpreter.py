"""Python in a process of its own: for what changes the process, or looks at it."""

from __future__ import annotations

import subprocess
import sys


def run(body: str, *arguments: object) -> str:
    """Run ``body`` in an interpreter that is isolated; return what it said."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", body, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()
