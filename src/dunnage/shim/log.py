"""The shim's log: one line per record, in logrus' text form, into the daemon's fifo.

The fifo is opened for reading and writing: that never waits for the daemon, never
fails for want of it, and keeps what was written while it is away.
A write never blocks: with a full fifo the record is dropped, and the next one that fits
says how many were.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import stat
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

about: Final[ContextVar[str]] = ContextVar("about", default="")
"""The container that the running code is busy with, for records that do not name it."""

_LEVELS: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}

_MESSAGE_LIMIT_BYTES: Final = 3072
"""A pipe takes 4096 bytes whole or not at all; the rest is for the other keys."""


_ROOM_POLL_S: Final = 0.005


class LogrusFormatter(logging.Formatter):
    """Formats a record as ``time="…" level=… msg="…" key=value``."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = "".join(f" {k}={_quoted(v)}" for k, v in fields.items())

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, its traceback included."""
        time = datetime.fromtimestamp(record.created, UTC)
        stamp = f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond:06}000Z"
        level = _LEVELS.get(record.levelno, "info")
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        container = getattr(record, "container", "") or about.get()
        extra = f" container={_quoted(container)}" if container else ""
        text = _cut(message)
        return f'time="{stamp}" level={level} msg={text}{extra}{self._fields}'


class FifoHandler(logging.Handler):
    """Writes each record with one write(2) that cannot block."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it as dropped."""
        try:
            line = self.format(record)
            if self._dropped:
                line += f" dropped={self._dropped}"
            os.write(self._fd, f"{line}\n".encode(errors="replace"))
            self._dropped = 0
        except OSError:
            self._dropped += 1


def set_up(fields: dict[str, str], *, debug: bool) -> None:
    """Log to the fifo ``log`` of the working directory, if the daemon has made one.

    It becomes fd 2 as well, for what Python itself has to say before it dies.
    """
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC
        fd = os.open("log", flags)
    except OSError:
        root.addHandler(logging.NullHandler())
        return
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.set_blocking(fd, True)
    os.dup2(fd, 2)
    os.close(fd)
    handler = FifoHandler(2)
    handler.setFormatter(LogrusFormatter(fields))
    root.addHandler(handler)


async def room(limit_s: float) -> None:
    """Wait until the log takes a record, if its reader gives it room in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    writable = select.poll()
    writable.register(2, select.POLLOUT)
    while not writable.poll(0) and loop.time() < end:  # noqa: ASYNC110  # epoll refuses a plain file, which fd 2 may be
        await asyncio.sleep(_ROOM_POLL_S)


def _cut(message: str) -> str:
    """Return a message in quotes, what is too long of it cut out of its middle."""
    text = json.dumps(message, ensure_ascii=False)
    half = _MESSAGE_LIMIT_BYTES
    while len(text.encode(errors="replace")) > _MESSAGE_LIMIT_BYTES:
        half //= 2
        cut = f"{message[:half]} ... {message[-half:]}"
        text = json.dumps(cut, ensure_ascii=False)
    return text


def _quoted(value: str) -> str:
    plain = value and all(c.isalnum() or c in "-._/@^+" for c in value)
    return value if plain else json.dumps(value)
