"""Whether a mutant is killed: the deciding tests, run in a forked child.

A child of its own for each, which imports the mutant in the place of its module; what
is slow to import was imported before the fork, and pytest is not started at all.
The tests go from cheap to dear and stop at the first that fails; a walk with one exec
comes before those with two.
A limit of processor time ends what hangs, one of memory what grows: killed, both.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import inspect
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, Final, TypeAlias

import hypothesis
import pytest

from .make import Mutant, mutants_of

_Test: TypeAlias = tuple[str, Callable[[], object]]

MACHINE: Final = tuple(
    f"dunnage.task.{name}" for name in ("machine", "record", "states", "table")
)
OUTBOX: Final = "dunnage.publish.outbox"
_DECIDING: Final = {
    **dict.fromkeys(MACHINE, "tests.task"),
    OUTBOX: "tests.publish",
}
_CPU_LIMIT_S: Final = 20.0
"""For all tests of one mutant but the walks with two execs; they take two."""
_CPU_LIMIT_OF_ALL_S: Final = 200.0
"""For all; they take thirty."""
_MEMORY_LIMIT_BYTES: Final = 1 << 31


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant; ``by`` names the test that killed it, or is empty."""

    mutant: Mutant
    by: str
    took_s: float


def all_mutants() -> list[Mutant]:
    """Return the mutants of the lifecycle machine and the outbox."""
    return [mutant for module in _DECIDING for mutant in mutants_of(module)]


def judge(
    mutants: Iterable[Mutant], *, is_quick: bool = False, at_a_time: int = 2
) -> Iterator[Verdict]:
    """Run the deciding tests against each; say what became of it as it is known.

    Args:
        mutants: what to judge.
        is_quick: leave out the walks with two execs, which take nearly all the time;
            they have hardly ever to decide.
        at_a_time: so many side by side.
    """
    # Imported once, inherited by every child; nothing of what is mutated.
    importlib.import_module("dunnage.api.events_pb2")
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    waiting = iter(mutants)
    children: dict[int, tuple[Mutant, int, float]] = {}
    try:
        while True:
            for mutant in itertools.islice(waiting, at_a_time - len(children)):
                pid, report = _fork(mutant, is_quick)
                children[pid] = (mutant, report, time.monotonic())
            if not children:
                return
            pid, status = os.wait()
            mutant, report, began = children.pop(pid)
            yield Verdict(mutant, _said(report, status), time.monotonic() - began)
    finally:
        for pid, (_, report, _) in children.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(report)


def _said(report: int, status: int) -> str:
    with open(report, encoding="utf-8") as file:
        last = file.read().splitlines()[-1:]
    if os.WIFSIGNALED(status):
        return f"{signal.Signals(os.WTERMSIG(status)).name} in {''.join(last)}"
    return "".join(last) if os.waitstatus_to_exitcode(status) else ""


def _fork(mutant: Mutant, is_quick: bool) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, read_end
    code = 1
    try:
        os.close(read_end)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES,) * 2)
        is_short = is_quick or mutant.module == OUTBOX
        limit_s = _CPU_LIMIT_S if is_short else _CPU_LIMIT_OF_ALL_S
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # SIGPROF ends us
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        code = _is_killed(mutant, write_end, is_quick)
    finally:
        os._exit(code)


def _is_killed(mutant: Mutant, report: int, is_quick: bool) -> bool:
    """Run the tests; leave the name of the one under way as the last line."""
    os.write(report, b"import\n")
    try:
        # A syntax error in a mutant is a mistake of the mutator, and no death.
        code = mutant.code()
    except SyntaxError as error:
        os.write(report, f"no mutant: {error}\n".encode())
        return False
    sys.meta_path.insert(0, _Finder(mutant, code))
    try:
        for name, test in _tests(_DECIDING[mutant.module], is_quick):
            os.write(report, f"{name}\n".encode())
            test()
    except BaseException:
        return True
    return False


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Gives the mutant where its module is asked for."""

    def __init__(self, mutant: Mutant, code: CodeType) -> None:
        self._mutant = mutant
        self._code = code

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._mutant.module:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def get_source(self, fullname: str) -> None:  # noqa: ARG002  # the interface
        return None

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002  # the interface
        return self._code


# -- the tests, in their order


def _tests(package: str, is_quick: bool) -> Iterator[_Test]:
    if package == "tests.publish":
        yield from _tests_in("tests.publish.test_outbox")
        return
    for module in ("test_table", "test_record", "test_machine"):
        yield from _tests_in(f"{package}.{module}")
    for restores in (False, True):
        yield f"the walk with one exec, {restores=}", lambda: _small_walk(restores)  # noqa: B023  # called before the next
    if not is_quick:
        yield from _tests_in(f"{package}.test_walk")


def _small_walk(restores: bool) -> None:
    test_walk = importlib.import_module("tests.task.test_walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_walk, "EXECS", ("a",))
        patch.setattr(test_walk, "PROCESSES", ("", "a"))
        test_walk.walk(test_walk.first(restores=restores))


def _tests_in(module: str) -> Iterator[_Test]:
    """Yield a module's tests, one for each set of parameters."""
    imported = importlib.import_module(module)
    for name, test in vars(imported).items():
        if name.startswith("test_"):
            yield from _cases(name, test, imported)


def _cases(
    name: str, test: Callable[..., object], module: ModuleType
) -> Iterator[_Test]:
    sets = [_values(m) for m in getattr(test, "pytestmark", ()) if m.args]
    wants_patch = "monkeypatch" in inspect.signature(test).parameters
    for chosen in itertools.product(*sets):
        arguments = {key: value for each in chosen for key, value in each.items()}

        def run(arguments: dict[str, Any] = arguments) -> None:
            with contextlib.ExitStack() as stack:
                if wants_patch:
                    patch = stack.enter_context(pytest.MonkeyPatch.context())
                    arguments = arguments | {"monkeypatch": patch}
                test(**arguments)

        shown = ", ".join(f"{key}={value}" for key, value in arguments.items())
        yield f"{module.__name__}::{name}({shown})", run


def _values(mark: pytest.Mark) -> list[dict[str, Any]]:
    """Return what ``parametrize`` was given, as keyword arguments."""
    names, rows = mark.args
    if isinstance(names, str):
        return [{names: row} for row in rows]
    return [dict(zip(names, row, strict=True)) for row in rows]
