"""The log holds whole events, in order, across crashes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dunnage.manager.eventlog import Reader, Record, Writer


def record(number: int) -> Record:
    """Return one of many different events."""
    return Record(number, "ns", "/tasks/start", "containerd.events.X", bytes([0, 255]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be."""
    return tmp_path / "events/ns.log"


def open_writer(path: Path) -> Writer:
    """Open a writer that nobody else is."""
    writer = Writer.maybe_open(path)
    assert writer is not None
    return writer


def test_round_trip() -> None:
    """An event is one line and reads back the same."""
    line = record(7).to_line()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert Record.from_line(line) == record(7)


@pytest.mark.parametrize(
    "line", [b"x", b"[]", b"{}", b'{"value": 1}', b'{"value": "!"}']
)
def test_no_event(line: bytes) -> None:
    """A line that is no event is a ValueError and nothing else."""
    with pytest.raises(ValueError, match=r"."):
        Record.from_line(line)


def test_reader_sees_what_is_appended(path: Path) -> None:
    """A reader sees each event once; one at the end only what is to come."""
    first = Reader(path)
    assert (first.read(), Reader.at_end(path).read()) == ([], [])
    writer = open_writer(path)
    writer.append(record(1))
    last = Reader.at_end(path)
    assert first.read() == [record(1)]
    writer.append(record(2))
    writer.append(record(3))
    assert first.read() == last.read() == [record(2), record(3)]
    assert first.read() == []
    writer.close()


def test_one_writer(path: Path) -> None:
    """There is one writer at a time, and the next one when it has closed."""
    writer = open_writer(path)
    assert Writer.maybe_open(path) is None
    writer.close()
    open_writer(path).close()


@pytest.mark.parametrize("torn", [b"{", b"x" * (3 << 20)], ids=["short", "long"])
def test_torn_line(path: Path, torn: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """whole-lines: what a crash left of an event is not seen, and is cut off."""
    writer = open_writer(path)
    writer.append(record(1))
    writer.close()
    with path.open("ab") as file:
        file.write(torn)
    assert Reader(path).read() == [record(1)]
    waiting = Reader.at_end(path)
    writer = open_writer(path)
    writer.append(record(2))
    writer.close()
    assert waiting.read() == [record(2)]
    assert Reader(path).read() == [record(1), record(2)]
    assert "cut off" in caplog.text


def test_only_a_torn_line(path: Path) -> None:
    """A log whose very first event was torn becomes empty."""
    path.parent.mkdir()
    path.write_bytes(b"{")
    open_writer(path).close()
    assert path.read_bytes() == b""


def test_a_line_that_is_no_event(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken line between others is skipped, and that is said."""
    path.parent.mkdir()
    path.write_bytes(record(1).to_line() + b"broken\n" + record(2).to_line())
    assert Reader(path).read() == [record(1), record(2)]
    assert "skipped" in caplog.text


def test_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that cannot be written whole leaves nothing of it."""
    writer = open_writer(path)
    writer.append(record(1))
    write = os.write

    def half(fd: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "full")
        return write(fd, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr("os.write", half)
        with pytest.raises(OSError, match="full"):
            writer.append(record(2))
    assert path.read_bytes() == record(1).to_line()
    writer.append(record(3))
    assert Reader(path).read() == [record(1), record(3)]
    writer.close()
