"""Tests of `dunnage.host.procs.sealed`: programs that run from sealed memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dunnage.host.procs import run_to_end, sealed

READLINK = shutil.which("readlink")


@pytest.fixture(autouse=True)
def no_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with none, and close what a test has made."""
    copies: dict[str, sealed._Copy] = {}
    monkeypatch.setattr(sealed, "_copies", copies)
    yield
    for copy in copies.values():
        os.close(copy.fd)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that says where it runs from."""
    assert READLINK
    return Path(shutil.copy(READLINK, tmp_path / "where"))


def open_fds() -> list[str]:
    """Return what we have open, but for the look itself."""
    fds = Path("/proc/self/fd")
    return sorted(os.readlink(fd) for fd in fds.iterdir() if os.path.exists(fd))


def runs_from(program: Path) -> str:
    """Run it; return what it says."""
    status, said = run_to_end([str(program), "/proc/self/exe"])
    assert 0 == status, said
    return said.decode().strip()


def keep(program: Path) -> None:
    """Keep a copy, the program being found by its name."""
    sealed.keep([program.name], f"/nowhere:{program.parent}:/usr/bin")


def test_the_copy_is_run_and_cannot_be_written_to(program: Path) -> None:
    """It is what runc and crun look for: all four seals."""
    assert str(program) == runs_from(program)
    keep(program)
    assert "/memfd:where (deleted)" == runs_from(program)
    where = sealed.at(str(program))
    assert where
    with pytest.raises(PermissionError):
        os.truncate(where, 0)
    fd = os.open(where, os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
    finally:
        os.close(fd)
    assert program.read_bytes() == Path(where).read_bytes()


def test_it_is_found_in_the_order_of_path(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another of the same name that comes earlier is run in its place."""
    keep(program)
    earlier = program.parent / "earlier"
    monkeypatch.setenv("PATH", f"{earlier}:{program.parent}")
    assert b"/memfd:" in run_to_end(["where", "/proc/self/exe"])[1]
    earlier.mkdir()
    shutil.copy(program, earlier)
    assert str(earlier).encode() in run_to_end(["where", "/proc/self/exe"])[1]


def test_a_file_that_has_changed_is_run_itself(program: Path) -> None:
    """Until the copy is renewed; the old one is closed then."""
    keep(program)
    before = len(open_fds())
    other = program.with_name("other")
    changes: list[Callable[[], object]] = [
        lambda: os.utime(program),
        lambda: os.replace(shutil.copy(program, other), program),
        lambda: program.chmod(0o755),
    ]
    for change in changes:
        change()
        assert str(program) == runs_from(program)
        keep(program)
        assert "/memfd:where (deleted)" == runs_from(program)
        keep(program)
        assert before == len(open_fds())
    program.chmod(0o600)
    with pytest.raises(PermissionError):
        runs_from(program)
    keep(program)
    assert before - 1 == len(open_fds())
    program.unlink()
    with pytest.raises(FileNotFoundError):
        runs_from(program)


def test_what_cannot_be_copied_is_run_itself(program: Path) -> None:
    """What would gain rights, or is no program of its own; nothing stays open."""
    before = open_fds()
    script = program.with_name("script")
    script.write_text("#!/bin/sh\nreadlink /proc/$$/exe\n")
    script.chmod(0o755)
    keep(script)
    assert sealed.at(str(script)) is None
    for mode in (0o4755, 0o2755, 0o644):
        program.chmod(mode)
        keep(program)
        assert sealed.at(str(program)) is None
    program.chmod(0o755)
    capability = bytes.fromhex("0100000200100000000000000000000000000000")
    os.setxattr(program, "security.capability", capability)
    keep(program)
    assert sealed.at(str(program)) is None
    os.removexattr(program, "security.capability")
    os.truncate(program, (64 << 20) + 1)
    keep(program)
    assert sealed.at(str(program)) is None
    keep(program.with_name("absent"))
    assert before == open_fds()


def test_no_program_of_a_mount_that_forbids_it(program: Path) -> None:
    """A copy would be a way around noexec."""
    place = program.with_name("mounted")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", place], check=True)
    try:
        forbidden = Path(shutil.copy(program, place))
        keep(forbidden)
        assert sealed.at(str(forbidden)) is None
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_copy_that_is_refused_leaves_the_file(program: Path) -> None:
    """Kernels can forbid to execute from memory: then it is the file, as ever."""
    keep(program)
    copy = sealed._copies[str(program)]
    os.close(copy.fd)
    # A device stands for all that the kernel refuses to execute.
    os.dup2(fd := os.open(os.devnull, os.O_RDONLY), copy.fd, inheritable=False)
    os.close(fd)
    assert sealed.at(str(program))
    assert str(program) == runs_from(program)
