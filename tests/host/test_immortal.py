"""Tests of `dunnage.host.immortal`, and of what giving memory back makes of it."""

from __future__ import annotations

import sys

import pytest
from tests import interpreter

from dunnage.host import native

pytestmark = pytest.mark.skipif(
    native.library is None or sys.version_info[:2] != (3, 11),
    reason="was not built, or is not for this Python",
)

_BEGIN = """
import gc, os, sys
from dunnage.host import immortal, memory, native
def is_immortal(each):
    return sys.getrefcount(each) > 1 << 60
def in_a_fork(body):
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(body() or 0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(body: str) -> None:
    """Run Python with what all of these need; it has to come to its end."""
    assert "well" == interpreter.run(f"{_BEGIN}{body}\nprint('well')")


def test_all_that_can_be_found_is_immortal() -> None:
    """Singletons, types, functions, their code and its parts, what is in containers."""
    run("""
class Slotted:
    __slots__ = ("held",)
held = Slotted()
held.held = [("in a tuple", 2.5, b"x" * 100)]
def function(argument):
    return "a constant of code", [inner for inner in argument.attribute]
assert immortal.make_immortal() > 10_000
code = function.__code__
for each in (None, 7, int, Slotted, held, held.held, *held.held[0], function, code,
             *code.co_consts, *code.co_names, code.co_linetable, is_immortal):
    assert is_immortal(each), each
assert not is_immortal(object())
assert immortal.make_immortal() < 1000
for each in (None, held):
    assert sys.getrefcount(each) < 3 << 61  # once is enough
""")


def test_what_is_new_is_as_mortal_as_ever() -> None:
    """Also where it refers to what is not."""
    run("""
import weakref
class Kind: pass
kept = Kind()
immortal.make_immortal()
young = Kind()
young.held = kept
gone = weakref.ref(young)
assert gone()
del young
assert gone() is None
""")


@pytest.mark.parametrize(
    "why",
    [
        "native.library = None",
        "sys.version_info = (3, 12, 0)",
        "sys.implementation.name = 'pypy'",
        "immortal.id = lambda each: id(each) + 8",
    ],
)
def test_where_it_cannot_be_done_nothing_is(why: str) -> None:
    """No library, another Python, a count that is not where it should be."""
    run(f"""
{why}
assert 0 == immortal.make_immortal()
assert not is_immortal(held := object())
""")


def test_counts_alone_keep_no_page() -> None:
    """Who refers to everything at rest has nothing of it for itself; time and again."""
    run("""
rows = [b"%d" % n * 20 for n in range(50_000)]
expected = list(rows)
immortal.make_immortal()
gc.freeze()
gc.disable()
assert memory.share()
def refer():
    memory.give_back()
    before = memory.give_back().copied
    for _ in range(5):
        held = [*rows, *rows]
        now = memory.give_back()
        assert now.copied > before + (4 << 20), (before, now)
        assert now.copied - now.given_back < before + (2 << 20), (before, now)
        assert rows == expected and held[:1000] == expected[:1000]
        del held
        assert memory.give_back()
    del expected[:]
    gc.collect()
    assert rows[-1] == b"49999" * 20
assert 0 == in_a_fork(refer)
assert rows == expected
""")


def test_what_is_no_count_keeps_its_page() -> None:
    """Though a count beside it has changed, too."""
    run("""
import ctypes
rows = [[n] for n in range(50_000)]
immortal.make_immortal()
gc.freeze()
gc.disable()
assert memory.share()
def change():
    for n, row in enumerate(rows):
        row[0] = -n
    held = list(rows)
    memory.give_back()
    assert rows == [[-n] for n in range(len(rows))]
assert 0 == in_a_fork(change)
""")
