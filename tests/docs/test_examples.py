"""The examples of the pages in docs/."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["ttrpc.md", "testing.md"])
def test_the_example_prints_what_the_page_says(page: str) -> None:
    """The first block of code runs as it stands, and its output is the second block."""
    text = (DOCS / page).read_text()
    blocks = re.findall(r"```(?:python|text)\n(.*?)```", text, re.DOTALL)
    code, output, *_ = blocks
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (0, output, "") == (done.returncode, done.stdout, done.stderr)
