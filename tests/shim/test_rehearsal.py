"""Tests of `dunnage.shim.rehearsal`, `stage` and `still`, in processes of their own."""

from __future__ import annotations

from pathlib import Path

from tests import interpreter

_LOOK = """
import asyncio, gc, logging, os, signal, sys
from dunnage.host import loop
from dunnage.shim import log, ready, rehearsal, still
ready._import_all()
place = sys.argv[1]
def look():
    return {
        "files": os.listdir(place), "cwd": os.getcwd(), "env": dict(os.environ),
        "fds": sorted(os.listdir("/proc/self/fd")), "umask": os.umask(0o22),
        "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
        "threads": os.listdir("/proc/self/task"),
        "signals": [signal.getsignal(s) for s in range(1, 32)],
        "wakeup": signal.set_wakeup_fd(-1),
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "handlers": logging.getLogger().handlers[:],
        "level": logging.getLogger().level, "about": log.about.get(),
        "tasks": [o for o in gc.get_objects() if isinstance(o, asyncio.Task)],
        "limits": __import__("resource").getrlimit(7),
    }
os.umask(0o22)
said = []
class Said(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger().addHandler(Said())
before = look()
"""


def run(directory: Path, body: str) -> None:
    """Run Python with what all of these need."""
    interpreter.run(_LOOK + body, directory)


def test_it_leaves_nothing(tmp_path: Path) -> None:
    """Nothing of the invariant's list, and nothing in the log."""
    run(
        tmp_path,
        """
rehearsal.rehearse(place)
gc.collect()
after = look()
for key in before:
    assert before[key] == after[key], (key, before[key], after[key])
assert not said, said
""",
    )


def test_a_failure_is_logged_only(tmp_path: Path) -> None:
    """Whatever goes wrong in the midst of it."""
    run(
        tmp_path,
        """
def fail(*_, **__):
    raise RuntimeError("unlucky")
rehearsal._Play._exec = staticmethod(fail)
rehearsal.rehearse(place)
gc.collect()
after = look()
for key in before:
    assert before[key] == after[key], (key, before[key], after[key])
assert said == ["the rehearsal failed"], said
""",
    )


def test_a_place_that_is_none_is_a_failure(tmp_path: Path) -> None:
    """No room for files: no rehearsal."""
    run(
        tmp_path,
        """
rehearsal.rehearse(place + "/none")
assert said == ["the rehearsal failed"], said
""",
    )


def test_code_that_stands_still_still_works(tmp_path: Path) -> None:
    """On the version that counts, nothing is counted any more; elsewhere as before."""
    run(
        tmp_path,
        """
scope = {}
exec("def cold(n):\\n    return sum(i * i for i in range(n))", scope)
found = still.stand_still()
assert bool(found) == (sys.version_info[:2] == (3, 11)), found
assert still.stand_still() < found or not found
for _ in range(100):
    assert scope["cold"](10) == 285
if found:
    assert still._count_of(scope["cold"].__code__).value == 0
""",
    )
