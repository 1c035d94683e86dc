"""The harness of script/bench, run once over real shims."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.results import COUNTS, rows
from benchmarks.subjects import OURS
from tests.machine import pids_with
from tests.shim.harness import ROOT, STOCK


@pytest.mark.slow
def test_one_round_of_ours_and_the_stock_shim(tmp_path: Path) -> None:
    """Both have a figure in each row, ours has lost nothing, and nothing is left."""
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "benchmarks",
                "--smoke",
                "--shims",
                "go-1.6,dunnage",
            ),
            *("--only", "life,delete,exec,execs,memory,pods"),
            *("--json", tmp_path / "found.json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert 0 == done.returncode, done.stderr
    assert STOCK.exists()
    assert OURS.exists()
    found = json.loads((tmp_path / "found.json").read_text())
    there = {
        row.name
        for row in rows()
        if row.group not in {"ctr", "ksm"}
        and not any(f"-{count}-" in row.name for count in COUNTS[1:])
    }
    for shim in ("go-1.6", "dunnage"):
        assert there == set(found["summary"][shim]), done.stdout
    # What the stock shim does is told, and no reason to fail: it may lose some.
    assert 0 == found["events"]["dunnage"]["missing"]
    assert 0 == found["events"]["dunnage"]["misordered"]
    assert found["events"]["go-1.6"]
    assert "one life above the floor" in done.stdout
    # The address of the event socket was in every command line.
    assert [] == pids_with("/run/dunnage-bench-")
