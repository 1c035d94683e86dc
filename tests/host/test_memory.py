"""Tests of `dunnage.host.memory`: contents stay, whatever is shared or given back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import interpreter

from dunnage.host import memory, native

needs_library = pytest.mark.skipif(native.library is None, reason="was not built")

_BEGIN = """
import gc, hashlib, os, threading
from dunnage.host import memory, native
rows = [bytes([n % 251]) * 3000 + b"%d" % n for n in range(2000)]
expected = hashlib.sha256(b"".join(rows)).digest()
def is_kept():
    return hashlib.sha256(b"".join(rows)).digest() == expected
"""


def run(body: str) -> str:
    """Run Python with what all of these need; return what it said."""
    return interpreter.run(_BEGIN + body)


@needs_library
def test_sharing_keeps_contents() -> None:
    """Objects, those made later too, and what libc holds, in the parent and a fork."""
    said = run("""
size = memory.share()
assert size > 4 << 20, size
assert is_kept()
more = [bytes(5000) for _ in range(1000)]
assert is_kept()
pid = os.fork()
if pid == 0:
    rows[7] = b"changed"
    os._exit(0 if not is_kept() else 1)
assert os.waitpid(pid, 0)[1] == 0
assert is_kept()
del more, rows[1000:]
gc.collect()
memory.trim()
assert hashlib.sha256(b"".join(rows)).digest() != expected
print("well")
""")
    assert "well" == said


@needs_library
def test_sharing_once_more_shares_what_was_written_since() -> None:
    """The new file takes the old one's place; an earlier fork keeps what it had."""
    said = run("""
def views():
    maps = open("/proc/self/maps").read().splitlines()
    return [line for line in maps if "memfd:dunnage" in line and " r--p " in line]
changing = bytearray(b"a" * (4 << 20))
gc.freeze()
gc.disable()
assert memory.share()
pipe = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(pipe[1])
    os.read(pipe[0], 1)
    kept = changing == b"a" * len(changing) and is_kept()
    memory.give_back()
    kept = kept and changing == b"a" * len(changing) and is_kept()
    os._exit(0 if kept else 1)
changing[:] = b"b" * len(changing)
assert memory.share() >= len(changing)
before = memory.give_back()
assert before.copied < len(changing) // 2, before
assert changing == b"b" * len(changing) and is_kept()
assert len(views()) == 1, views()
changing[:] = b"c" * len(changing)
changing[:] = b"b" * len(changing)
alike = memory.give_back()
assert alike.given_back >= len(changing) - 8192, alike
assert changing == b"b" * len(changing) and is_kept()
os.write(pipe[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
print("well")
""")
    assert "well" == said


@needs_library
def test_who_is_wanted_stops_copying() -> None:
    """Between two portions it looks; what it has not copied is copied when needed."""
    said = run("""
changing = bytearray(b"a" * (4 << 20))
assert memory.share()
ours, its = os.pipe()
pid = os.fork()
if pid == 0:
    changing[:] = changing[:]
    with open(its, "wb") as file:
        file.write(memory.touched())
    os._exit(0)
os.close(its)
with open(ours, "rb") as file:
    ahead = memory.Ahead(file.read())
assert os.waitpid(pid, 0)[1] == 0
def copied(*answers):
    said = list(answers)
    pid = os.fork()
    if pid == 0:
        memory.give_back()  # what is copied by accident
        before = memory.give_back().copied
        ahead.copy(lambda: said.pop(0) if said else False)
        os._exit((memory.give_back().copied - before) >> 20)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert copied(True) == 0
assert copied() >= 4, copied()
assert copied(*[False] * 30, True) < copied()
assert is_kept()
print("well")
""")
    assert "well" == said


@needs_library
def test_only_equal_pages_are_given_back() -> None:
    """What was written and written back is dropped; what differs is kept."""
    said = run("""
changing = bytearray(b"a" * (1 << 20))
gc.freeze()
gc.disable()
assert memory.share()
memory.give_back()
changing[:] = b"b" * len(changing)
differing = memory.give_back()
assert changing == b"b" * len(changing)
assert differing.copied - differing.given_back >= len(changing) - 8192, differing
changing[:] = b"a" * len(changing)
alike = memory.give_back()
assert changing == b"a" * len(changing)
assert alike.given_back >= len(changing) - 8192, alike
assert is_kept()
print("well")
""")
    assert "well" == said


@needs_library
def test_memory_that_is_another_by_now_keeps_its_content() -> None:
    """A range was unmapped, and other memory with the same content lies there."""
    said = run("""
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3,
                      ctypes.c_long)
size = 1 << 20
private, fixed = 0x02 | 0x20, 0x10
at = libc.mmap(None, size, 3, private, -1, 0)
ctypes.memset(at, 7, size)
assert memory.share()
assert libc.mmap(at, size, 3, private | fixed, -1, 0) == at
ctypes.memset(at, 7, size)
assert memory.give_back()
assert ctypes.string_at(at, size) == bytes([7]) * size
print("well")
""")
    assert "well" == said


@pytest.mark.parametrize(
    "why",
    [
        "native.library = None",
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "os.memfd_create = lambda *_: os.open('/none', 0)",
        "os.memfd_create = lambda *_: os.open('/dev/null', os.O_RDWR)",
    ],
)
def test_a_refusal_changes_nothing(why: str) -> None:
    """No library, two threads, no file, one that cannot be sealed."""
    said = run(f"""
{why}
assert memory.share() == 0
assert "memfd" not in open("/proc/self/maps").read()
assert memory.give_back() is None
assert is_kept()
print("well")
""")
    assert "well" == said


def test_what_may_be_shared() -> None:
    """Own, writable data: not a stack, code, or what lies around the thread block."""
    maps = """\
400000-500000 r-xp 00000000 08:01 7 /usr/bin/python3
500000-600000 rw-p 00000000 08:01 7 /usr/bin/python3
600000-700000 rw-p 00000000 00:00 0 [heap]
700000-710000 rw-s 00000000 00:01 9 /dev/zero (deleted)
710000-720000 rw-p 00000000 00:00 0
720000-730000 rw-p 00000000 00:00 0 [anon:named]
7f0000-800000 rw-p 00000000 00:00 0 [stack]
"""
    places = list(memory.shareable(memory.parsed(maps.splitlines()), 0x718010))
    assert places[:2] == [(0x500000, 0x600000), (0x600000, 0x700000)]
    before, after = places[2:]
    assert before == (0x710000, 0x716000)
    assert after == (0x71B000, 0x720000)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("1\n", True), ("0\n", False), ("2\n", False), (None, False)],
)
def test_pages_are_merged_only_where_the_host_does_so(
    tmp_path: Path, setting: str | None, expected: bool
) -> None:
    """The kernel is asked where KSM runs, and only there."""
    file = tmp_path / "run"
    if setting is not None:
        file.write_text(setting)
    said = run(f"""
import ctypes
asked = lambda: ctypes.CDLL(None).prctl(68, 0, 0, 0, 0)  # -1 before Linux 6.4
expected = {expected} and asked() == 0
assert memory.merge_equal({str(file)!r}) is expected
assert asked() in (int(expected), -1)
print("well")
""")
    assert "well" == said
