"""Containers of one pod under our own manager: they come and go beside one another."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.shim.harness import spec

if TYPE_CHECKING:
    from tests.cli.driver import Cli

pytestmark = pytest.mark.slow

AT_A_TIME = 3
ROUNDS = 6


@pytest.mark.parametrize("cli", ["ours"], indirect=True)  # the stock shim may leave
def test_members_come_while_others_leave(cli: Cli, tmp_path: Path) -> None:
    """kept-for-those-who-come: each run has its shim, its status, and its clean end."""
    directory = tmp_path / "bundle"
    directory.mkdir()
    (directory / "rootfs").symlink_to(cli.rootfs)
    config = spec(
        ["true"],
        annotations={"io.containerd.runc.v2.group": "pod"},
        root={"path": str(cli.rootfs)},
    )
    del config["linux"]["cgroupsPath"]
    (directory / "config.json").write_text(json.dumps(config))

    def run_some(worker: int) -> list[tuple[int, bytes]]:
        runs = [
            cli(
                *("run", "--rm", "--runtime", cli.runtime, "--bundle", directory),
                *(f"c{worker}-{round_}", "--", "sh", "-c", f"exit {10 + worker}"),
            )
            for round_ in range(ROUNDS)
        ]
        return [(run.returncode, run.stderr) for run in runs]

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        ended = list(pool.map(run_some, range(AT_A_TIME)))
    assert [[(10 + n, b"")] * ROUNDS for n in range(AT_A_TIME)] == ended
    assert [] == cli.leftovers("pod")
    assert [] == cli.shims()
