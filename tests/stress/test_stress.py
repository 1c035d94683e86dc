"""Many lives at once: a quarter of ``script/stress`` each way, in sum its whole counts.

With runc and with crun, a shim each and in pods: that makes 200 inits and 240 execs
that end at once, and 52 inits that die while three execs start in each of the two kinds
of pid namespace, eight at a time.
``script/stress`` does at least so many each way (two minutes).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.shim.harness import ROOT, Shim

from .load import Amount, Load

QUARTER = Amount(short=50, execs=50, dying=13)


@pytest.mark.slow
@pytest.mark.parametrize("pods", [False, True], ids=["a shim each", "pods"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_short_lives_side_by_side(tmp_path: Path, runtime: str, pods: bool) -> None:
    """Every event there, none twice, none out of order, nothing left behind."""
    load = Load(tmp_path, runtime, pods, QUARTER, seed=4)

    assert [] == asyncio.run(load.run())
    # The rest depends on how many execs came before the death of their init.
    assert load.events >= 4 * (50 + 60 + 3 + 2 * 13)
    assert len(load.answers) >= 50 + 60 + 3 + 2 * 13 * 4


class _Forgetful(Shim):
    """Leaves a thing in the bundle and a process; its daemon misses the last event."""

    def bury(self, id_: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", "input()", self.namespace], stdin=subprocess.PIPE
        )
        (self.bundles / "stray").touch()
        del self.events[-1]
        super().bury(id_)

    async def __aexit__(self, *args: object) -> None:
        (self.bundles / "stray").unlink()
        self.child.communicate()
        await super().__aexit__(*args)


@pytest.mark.slow
def test_the_stress_finds_what_is_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that never came, a stray process and a stray file are all named."""
    monkeypatch.setattr("tests.stress.load.Shim", _Forgetful)
    monkeypatch.setattr("tests.shim.harness.LIMIT_S", 0.5)
    load = Load(tmp_path, "crun", False, Amount(short=1, execs=0, dying=0), seed=4)

    faults = "\n".join(asyncio.run(load.run()))

    assert "the delete of short-0 is missing" in faults
    assert "0 deletes said, 1 answered" in faults
    assert "left behind: process" in faults
    assert "/stray" in faults


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--pods", "maybe"], "invalid choice: 'maybe'"),
        (["--runtime", "docker"], "invalid choice: 'docker'"),
        (["--short", "-1"], "not a count: '-1'"),
        (["--at-a-time", "0"], "at least one at a time"),
        (["--shim", "/no/shim"], "no program: '/no/shim'"),
    ],
)
def test_a_bad_argument_is_named(arguments: list[str], text: str) -> None:
    """What cannot be asked for ends with 2 and a sentence, before anything starts."""
    argv = [sys.executable, "-m", "tests.stress", *arguments]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (2, "") == (done.returncode, done.stdout)
    assert text in done.stderr
