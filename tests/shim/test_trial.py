"""Tests of `dunnage.shim.trial`, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import interpreter

from dunnage.host import native

pytestmark = pytest.mark.skipif(native.library is None, reason="was not built")

_BEGIN = """
import os, sys, time
from dunnage.host import memory
from dunnage.shim import forked, forkserver, ready, rehearsal, trial
place = sys.argv[1]
ready.make_ready(place)
own = forked.Own("code", forkserver._own_key("code"))
def look():
    children = open(f"/proc/self/task/{os.getpid()}/children").read()
    return os.listdir(place), sorted(os.listdir("/proc/self/fd")), children
def hold(**more):
    before = look()
    ahead = trial.hold(place, own, forkserver._environment(), **more)
    assert before == look()
    return ahead
def copied():
    return memory.give_back().copied
"""


def run(directory: Path, body: str) -> None:
    """Run Python with what all of these need."""
    interpreter.run(_BEGIN + body, directory)


def test_what_it_tells_is_copied_ahead(tmp_path: Path) -> None:
    """By as many pages as a shim writes to; and they read the same."""
    run(
        tmp_path,
        """
ahead = hold()
assert ahead is not None
memory.give_back()
pid = os.fork()
if pid == 0:
    before = copied()
    ahead.copy(lambda: False)
    more = memory.give_back()
    rise = more.copied - before
    assert 1 << 20 < rise < 16 << 20, rise
    assert more.given_back > rise * 0.9, more
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert hold() is not None  # nothing is worn out
""",
    )


@pytest.mark.parametrize(
    "trouble",
    [
        "rehearsal.begin = None",
        "forked.admit = lambda *_: os.kill(os.getpid(), 9)",
        "trial.rawfork.fork = lambda: os.open('/none', 0)",
        "os.pipe2 = lambda *_: os.open('/none', 0)",
        "trial.tempfile.mkdtemp = lambda **_: os.open('/none', 0)",
    ],
)
def test_a_failure_leaves_nothing(tmp_path: Path, trouble: str) -> None:
    """Then nothing is copied ahead, and that is all."""
    run(tmp_path, f"{trouble}\nassert hold() is None")


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    """The server waits for it only so long."""
    run(
        tmp_path,
        """
rehearsal.begin = lambda *_: time.sleep(1000)
began = time.monotonic()
assert hold(limit_s=0.2) is None
assert 0.2 <= time.monotonic() - began < 100
""",
    )
