"""Tests of `dunnage.shim.still`: code that is not written to any more."""

from __future__ import annotations

import sys

import pytest
from tests import interpreter

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="is not for this Python"
)

_BEGIN = """
import ctypes, sys
from dunnage.shim import still
def instructions(function):
    code = function.__code__
    return ctypes.string_at(id(code) + still._INSTRUCTIONS, len(code.co_code))
def warm(text): return len(text) + sum(n for n in range(3) if n)
def fresh(text): return len(text) + 1
for _ in range(100): warm("x")
"""


def run(body: str) -> None:
    """Run Python with what all of these need; it has to come to its end."""
    assert "well" == interpreter.run(f"{_BEGIN}{body}\nprint('well')")


def test_no_code_changes_any_more() -> None:
    """Neither what was rewritten before, which is as it was written, nor the rest."""
    run("""
assert instructions(warm) != warm.__code__.co_code
before = sys.getrefcount(warm.__code__.co_code)
assert still.stand_still() > 100
for function, result in ((warm, 4), (fresh, 2)):
    assert instructions(function) == function.__code__.co_code
    for _ in range(100):
        assert function("x") == result
    assert instructions(function) == function.__code__.co_code
""")


def test_the_bytes_of_code_are_not_kept() -> None:
    """They would be a second copy of everything."""
    run("""
def other(text): return len(text) + 1
for _ in range(100): other("x")
kept = ctypes.c_void_p.from_address(id(other.__code__) + still._KEPT)
assert kept.value is None
still.stand_still()
assert kept.value is None and other("x") == 2 and other.__code__.co_code
""")


@pytest.mark.parametrize(
    "why",
    [
        "sys.version_info = (3, 12, 0)",
        "sys.implementation.name = 'pypy'",
        "still._WHERE = 56",
        "still._INSTRUCTIONS = 176",
        "still._KEPT = 160",
    ],
)
def test_what_is_not_where_it_should_be_is_left_alone(why: str) -> None:
    """Another Python, or another layout."""
    run(f"""
before = instructions(warm)
real = still._INSTRUCTIONS
{why}
assert 0 == still.stand_still()
still._INSTRUCTIONS = real
assert before == instructions(warm)
""")
