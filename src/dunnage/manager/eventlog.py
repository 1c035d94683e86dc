"""The log of a namespace's events: a file that outlives whoever writes it.

Owns: the format, the lock of the writer, the repair of what a crash left.
Must not know: sockets, who sends events, what they mean.

The file is JSON lines, one event each::

    {"timestamp_ns": 1, "namespace": "default", "topic": "/tasks/start",
     "type_url": "containerd.events.TaskStart", "value": "<base64>"}

Anybody may read it at any time; only the holder of the lock (flock, on the file itself)
appends.

Invariant (whole-lines): a reader sees whole events only; a line without an end is one
    that is being written, or was when its writer died, and the next writer cuts it off.
"""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Self

from .places import make_passage

if TYPE_CHECKING:
    from pathlib import Path

_log: Final = logging.getLogger("dunnage.manager")

_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One event as it was forwarded."""

    timestamp_ns: int
    namespace: str
    topic: str
    type_url: str
    value: bytes

    def to_line(self) -> bytes:
        """Return the line that stands for it."""
        fields = asdict(self) | {"value": base64.b64encode(self.value).decode()}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Return the event of a line.

        Raises:
            ValueError: the line is no event.
        """
        try:
            fields = json.loads(line)
            return cls(**fields | {"value": base64.b64decode(fields["value"])})
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from error


class Reader:
    """Reads a log from an offset on; what is there now, each time it is asked."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._offset = offset

    @classmethod
    def at_end(cls, path: Path) -> Self:
        """Return a reader that will see only what is still to come."""
        try:
            with path.open("rb") as file:
                return cls(path, _whole_lines_bytes(file.fileno()))
        except FileNotFoundError:
            return cls(path)

    @property
    def offset(self) -> int:
        """Where it goes on."""
        return self._offset

    def read(self) -> list[Record]:
        """Return the events that came since the last time."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [record for line in whole.split(b"\n") if (record := _maybe(line))]


class Writer:
    """The one who may append; it holds the lock until `close`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def maybe_open(cls, path: Path) -> Self | None:
        """Return a writer, or None while another process is it.

        Raises:
            OSError: the file cannot be made or written.
        """
        make_passage(path.parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _cut_torn_line(fd)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def append(self, record: Record) -> None:
        """Put an event on disk.

        Raises:
            OSError: it could not be written; then nothing of it is there.
        """
        line = record.to_line()
        end = os.fstat(self._fd).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._fd, line[written:])
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, end)
            raise

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._fd)


def _whole_lines_bytes(fd: int) -> int:
    """Return where the last whole line ends."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - _READ_BYTES)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _cut_torn_line(fd: int) -> None:
    whole = _whole_lines_bytes(fd)
    if torn := os.fstat(fd).st_size - whole:
        _log.warning("cut off %d bytes of an event that a crash left", torn)
        os.ftruncate(fd, whole)


def _maybe(line: bytes) -> Record | None:
    if not line:
        return None
    try:
        return Record.from_line(line)
    except ValueError as error:
        _log.warning("skipped a line of the event log: %s", error)
        return None
