"""Twin of dunnage.bootstrap.bundle."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.bootstrap import bundle
from dunnage.bootstrap.bundle import ExitRecord

if TYPE_CHECKING:
    from pathlib import Path

RECORD = ExitRecord("c1", 4243, 137, 1_700_000_000_000_000_005)


def test_write_and_read(tmp_path: Path) -> None:
    """What was written is read back, and nothing else is left."""
    bundle.write(str(tmp_path), bundle.ADDRESS, "unix:///x")
    bundle.write(str(tmp_path), bundle.ADDRESS, b"unix:///y\n")
    assert bundle.read(str(tmp_path), bundle.ADDRESS) == "unix:///y"
    assert [tmp_path / bundle.ADDRESS] == list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_mode(tmp_path: Path, mode: int) -> None:
    """The mode is the one asked for, whatever the umask."""
    before = os.umask(0o077)
    try:
        bundle.write(str(tmp_path), "f", "", mode=mode)
    finally:
        os.umask(before)
    assert mode == stat.S_IMODE((tmp_path / "f").stat().st_mode)


def test_read_missing(tmp_path: Path) -> None:
    """A missing file is told apart from an empty one."""
    assert bundle.read(str(tmp_path), bundle.RUNTIME) is None
    (tmp_path / bundle.RUNTIME).touch()
    assert bundle.read(str(tmp_path), bundle.RUNTIME) == ""


def test_read_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 do not stop the reader."""
    (tmp_path / "f").write_bytes(b"a\xff")
    assert bundle.read(str(tmp_path), "f") == "a\ufffd"


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is an OSError; the old content stands and no draft is left."""
    bundle.write(str(tmp_path), "f", "old")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        bundle.write(str(tmp_path), "f", "new")
    assert caught.value.errno == errno.ENOSPC
    assert bundle.read(str(tmp_path), "f") == "old"
    assert [tmp_path / "f"] == list(tmp_path.iterdir())


def test_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only a part is carried on."""
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:1]))
    bundle.write(str(tmp_path), "f", "content")
    assert bundle.read(str(tmp_path), "f") == "content"


def test_no_bundle(tmp_path: Path) -> None:
    """A bundle that is gone is an OSError to the writer and nothing to the reader."""
    with pytest.raises(FileNotFoundError):
        bundle.write_exit(str(tmp_path / "gone"), RECORD)
    assert bundle.read_exit(str(tmp_path / "gone")) is None


def test_pid_file() -> None:
    """The pid file of an exec is named for it."""
    assert bundle.pid_file("e1") == "e1.pid"


def test_exit_on_disk(tmp_path: Path) -> None:
    """exit-on-disk: a recorded exit is read back as it was."""
    bundle.write_exit(str(tmp_path), RECORD)
    found = bundle.read_exit(str(tmp_path))
    assert found == RECORD


@given(
    content=st.binary(max_size=60)
    | st.sampled_from(
        [
            b"null",
            b"{}",
            b"[1]",
            b'{"id":"c1","pid":true,"exit_status":1,"exited_at_ns":1}',
            b'{"id":1,"pid":1,"exit_status":1,"exited_at_ns":1}',
            b'{"id":"c1","pid":1,"exit_status":1,"exited_at_ns":"x"}',
            b"[" * 100_000,
        ]
    )
)
def test_corrupt_exit(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """exit-on-disk: what is no record is none, and never an error."""
    directory = tmp_path_factory.getbasetemp()
    (directory / bundle.EXIT).write_bytes(content)
    assert bundle.read_exit(str(directory)) is None


def test_nothing_is_waited_for(tmp_path: Path) -> None:
    """A fifo, or a directory, in the place of a file is an error at once."""
    os.mkfifo(tmp_path / bundle.CONFIG)
    (tmp_path / bundle.ADDRESS).mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        bundle.read_config(str(tmp_path))
    with pytest.raises(OSError, match="not a regular file"):
        bundle.read(str(tmp_path), bundle.ADDRESS)


def test_nothing_is_read_beyond_a_limit(tmp_path: Path) -> None:
    """A file that cannot be what it should is not read into memory."""
    for name, limit in ((bundle.CONFIG, 16 << 20), (bundle.ADDRESS, 1 << 20)):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, limit + 1)
    with pytest.raises(OSError, match="too large"):
        bundle.read_config(str(tmp_path))
    with pytest.raises(OSError, match="too large"):
        bundle.read(str(tmp_path), bundle.ADDRESS)
    os.truncate(tmp_path / bundle.CONFIG, 16 << 20)
    assert 16 << 20 == len(bundle.read_config(str(tmp_path)))
