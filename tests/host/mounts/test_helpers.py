"""File systems that a program mounts, and serves: a real one by FUSE."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.host.mounts.namespace import apart

from dunnage.errors import DunnageError
from dunnage.host.mounts import Mount, is_mount_point, mount_all, unmount_recursive

needs_fuse = pytest.mark.skipif(
    not Path("/dev/fuse").exists(), reason="the kernel has no FUSE"
)

_HELPER = """#!{python}
import ctypes, json, os, struct, sys
where = os.path.dirname(sys.argv[0])
with open(where + "/called", "w") as file:
    json.dump(sys.argv[1:], file)
fuse = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fuse
libc = ctypes.CDLL(None)
target = os.fsencode(sys.argv[2])
assert libc.mount(b"x", target, b"fuse.x", ctypes.c_ulong(0), options) == 0
if os.fork():
    os._exit(0)
with open(where + "/serves", "w") as file:
    for fd in (0, 1, 2):
        os.dup2(file.fileno(), fd)
while True:
    try:
        request = os.read(fuse, 1 << 17)
    except OSError:
        break
    _, what, number = struct.unpack_from("=IIQ", request)
    if what == 26:  # FUSE_INIT
        answer, error = struct.pack("=IIIIHHI40x", 7, 31, 0, 0, 0, 0, 4096), 0
    else:
        answer, error = b"", -38
    if what not in (2, 36, 42):  # those that are not to be answered
        os.write(fuse, struct.pack("=IiQ", 16 + len(answer), error, number) + answer)
os.unlink(where + "/serves")
"""

Helper = Callable[[str, str], None]


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """Install a program that is found by PATH, and a place for a root."""
    place = tmp_path / "bin"
    place.mkdir()
    (tmp_path / "rootfs").mkdir()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")

    def install(name: str, script: str) -> None:
        (place / name).write_text(script.replace("{python}", sys.executable))
        (place / name).chmod(0o755)

    return install


@needs_fuse
@pytest.mark.parametrize("kind", ["fuse", "fuse3"])
@apart
def test_a_file_system_by_fuse(helper: Helper, kind: str, tmp_path: Path) -> None:
    """The program hears all, and what serves it ends when it is unmounted."""
    helper(f"mount.{kind}", _HELPER)
    rootfs = tmp_path / "rootfs"
    component = Mount(f"{kind}.some.fs", "host:/x", "", ("ro", "a=b", "loop"))
    mount_all([component], str(rootfs))
    assert is_mount_point(str(rootfs))
    expected = ["host:/x", str(rootfs), "-o", "ro", "-o", "a=b", "-o", "loop"]
    called = json.loads((tmp_path / "bin/called").read_text())
    assert [*expected, "-t", "some.fs"] == called
    unmount_recursive(str(rootfs))
    assert not is_mount_point(str(rootfs))
    end = time.monotonic() + 10
    while (tmp_path / "bin/serves").exists():
        assert time.monotonic() < end
        time.sleep(0.01)


@needs_fuse
@apart
def test_mounts_undone_that_a_program_has_made(helper: Helper, tmp_path: Path) -> None:
    """mounts-undone: when a later one fails, or the program itself after all."""
    helper("mount.fuse", _HELPER)
    helper("mount.fuse3", _HELPER.replace("os._exit(0)", "os._exit(3)"))
    rootfs = str(tmp_path / "rootfs")
    with pytest.raises(DunnageError, match="err: no such device"):
        mount_all([Mount("fuse.x", "x"), Mount("nofs", "x")], rootfs)
    assert not is_mount_point(rootfs)
    with pytest.raises(DunnageError, match=r"mount.fuse3 x .* -t x: exit status 3: "):
        mount_all([Mount("fuse3.x", "x")], rootfs)
    assert not is_mount_point(rootfs)


@pytest.mark.parametrize("status", [0, 4])
@apart
def test_a_program_that_mounts_nothing(
    helper: Helper, status: int, tmp_path: Path
) -> None:
    """What it has said is in the error, also where it thinks that all is well."""
    helper("mount.fuse", f"#!/bin/sh\necho no luck >&2; exit {status}\n")
    with pytest.raises(DunnageError, match=f"exit status {status}: no luck$"):
        mount_all([Mount("fuse.x", "x")], str(tmp_path / "rootfs"))
