"""The example of docs/ttrpc.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/ttrpc.md"


def test_the_example_prints_what_the_page_says() -> None:
    """The first block of code runs as it stands, and its output is the second block."""
    blocks = re.findall(r"```(?:python|text)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    code, output, *_ = blocks
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (0, output, "") == (done.returncode, done.stdout, done.stderr)
