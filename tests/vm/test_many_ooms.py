"""OOM kills on cgroup v2, fifty of each kind: by hand, as it takes the guest long.

script/test-vm tests/vm/test_many_ooms.py -s
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.shim.harness import Shim, in_loop
from tests.shim.hog import HOG
from tests.stress.ooms import many

from .test_systemd import LIMIT, RUNTIMES, Scope, begun

pytestmark = pytest.mark.slow

KILLS = 50
MEMORY = {"limit": LIMIT, "swap": LIMIT}


@RUNTIMES
def test_where_the_runtime_makes_cgroups(tmp_path: Path, runtime: str) -> None:
    """Of init, an exec, a grandchild, and at a pod's limit: each once, and in time."""
    assert [] == asyncio.run(many(tmp_path, runtime, KILLS)).faults


@RUNTIMES
@in_loop
async def test_where_systemd_makes_them_an_exec(tmp_path: Path, runtime: str) -> None:
    """Init keeps the scope alive: each kill is told."""
    scope = Scope()
    async with Shim(tmp_path, runtime=runtime) as shim:
        await begun(shim, scope, ["sleep", "1000"], memory=MEMORY)
        for _ in range(KILLS):
            await shim.exec("c", "e", HOG)
            await shim.call("c", "start", exec_id="e")
            assert 137 == (await shim.call("c", "wait", exec_id="e")).exit_status
            await shim.call("c", "delete", exec_id="e")
        said = ["ExecAdded", "ExecStarted", "OOM", "Exit e", "Delete e"]
        assert ["Create", "Start", *said * KILLS] == shim.kinds()


@RUNTIMES
@in_loop
async def test_where_systemd_makes_them_init(tmp_path: Path, runtime: str) -> None:
    """A dead init's scope is removed by systemd: perhaps before its count is read.

    That it is told then cannot be promised; how often it was is printed.
    """
    found: Counter[tuple[str, ...]] = Counter()
    for number in range(KILLS):
        scope = Scope()
        place = tmp_path / str(number)
        place.mkdir()
        async with Shim(place, runtime=runtime) as shim:
            await shim.up("c", config=scope.spec(HOG, memory=MEMORY))
            await shim.call("c", "create", options=shim.options(systemd_cgroup=True))
            await shim.call("c", "start")
            assert 137 == (await shim.call("c", "wait")).exit_status
            await shim.call("c", "delete")
            await shim.call("c", "shutdown")
            assert [] == await shim.gone("c")
            found[tuple(shim.kinds())] += 1
    told = ("Create", "Start", "OOM", "Exit", "Delete")
    missed = ("Create", "Start", "Exit", "Delete")
    sys.stdout.write(f"\n{runtime}: {found[told]} of {KILLS} kills of init were told\n")
    assert KILLS == found[told] + found[missed], found
