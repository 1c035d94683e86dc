"""A seeded sample of the mutants, and the mutator itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.shim.harness import ROOT

from .equivalent import EQUIVALENT
from .judge import MACHINE, OUTBOX
from .make import Mutant, mutants_of

SAMPLE = 80


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.mutants", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


def _mutate(monkeypatch: pytest.MonkeyPatch, where: Path, source: str) -> list[Mutant]:
    (where / "mutated_here.py").write_text(source)
    monkeypatch.syspath_prepend(where)
    return mutants_of("mutated_here")


@pytest.mark.slow
def test_a_sample_of_the_mutants_is_killed() -> None:
    """80 of some 390, ever the same; `script/mutants` judges all."""
    done = _run("--sample", str(SAMPLE), "--seed", "4")

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SAMPLE} mutants: {SAMPLE} killed, 0 survive" in done.stdout


@pytest.mark.slow
def test_what_is_listed_survives() -> None:
    """A mutant that does the same passes the tests: what kills is not the harness."""
    done = _run("--only", "Outbox.__init__: swap", "--verbose")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("survives") == 2


def test_what_is_listed_exists() -> None:
    """Each mutant that is said to be equivalent is one that is made."""
    names = {m.name for module in (*MACHINE, OUTBOX) for m in mutants_of(module)}

    assert EQUIVALENT.keys() <= names
    assert all(EQUIVALENT.values())


def test_each_way_to_mutate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions, guards, emits, neighbours, members: each is changed once."""
    source = '''
def settle(task, emit):
    """Text."""
    if task.dead and not task.said:
        return
    task.state = 1
    emit(task.state in {1, 2})
'''
    names = [m.name for m in _mutate(monkeypatch, tmp_path, source)]

    where = "mutated_here settle: "
    assert sorted(names) == sorted(
        where + what
        for what in (
            "negate task.dead and (not task.said)",
            "negate task.dead",
            "negate not task.said",
            "remove if task.dead and (not task.said): …",
            "swap if task.dead and (not task.said): … | task.state = 1",
            "remove task.state = 1",
            "swap task.state = 1 | emit(task.state in {1, 2})",
            "remove emit(task.state in {1, 2})",
            "negate task.state in {1, 2}",
            "drop 1 of {1, 2}",
            "drop 2 of {1, 2}",
        )
    )


def test_every_mutant_differs_and_compiles() -> None:
    """No change is lost on the way: the code is other than that of the module."""
    for mutant in (m for module in (*MACHINE, OUTBOX) for m in mutants_of(module)):
        whole = compile(mutant.path.read_bytes(), mutant.path, "exec")
        assert mutant.code() != whole, mutant.name


def test_the_states_have_no_conditions() -> None:
    """Words only: there is nothing to mutate in them."""
    assert not mutants_of("dunnage.task.states")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "nobody"], "no mutant has 'nobody' in its name"),
        (["--sample", "-3"], "not a count: '-3'"),
        (["--at-a-time", "0"], "not a count: '0'"),
    ],
)
def test_a_bad_argument_is_named(arguments: list[str], text: str) -> None:
    """What cannot be asked for ends with 2 and a sentence."""
    done = _run(*arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert text in done.stderr
