"""Tests of `dunnage.host.pools`."""

from __future__ import annotations

from tests import interpreter


def test_what_is_made_then_lies_side_by_side() -> None:
    """Among blocks of others there is no free one any more."""
    body = """
import gc
from dunnage.host import pools
gc.disable()
def apart():
    made = [bytes(67) for _ in range(50)]
    return len({id(one) >> 12 for one in made})
some = [bytes(67) for _ in range(20000)]
del some[::101]
scattered = apart()
assert pools.fill_up() > 100
assert apart() < scattered, scattered
assert pools.fill_up() < 2000  # what is free was taken
"""
    interpreter.run(body)
