"""The shim's log: logrus lines into a fifo that may block nobody."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dunnage.shim.log import FifoHandler, LogrusFormatter

FIELDS = {"runtime": "io.containerd.dunnage.v2", "namespace": "a b"}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give a pipe like the fifo: its ends never block."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


def logger(fd: int) -> logging.Logger:
    """Return a logger of its own that writes to ``fd``."""
    handler = FifoHandler(fd)
    handler.setFormatter(LogrusFormatter(FIELDS))
    log = logging.Logger("test")  # noqa: LOG001  # no other test may hear it
    log.addHandler(handler)
    return log


def test_a_record_is_a_line_of_logrus(pipe: tuple[int, int]) -> None:
    """Time with nine digits, level, message, then keys with values."""
    read_end, write_end = pipe
    logger(write_end).warning('said "%s"', "x\ny", extra={"container": "c"})
    line = os.read(read_end, 4096).decode()
    stamp = r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"'
    rest = r' level=warning msg="said \\"x\\ny\\"" container=c'
    fields = ' runtime=io.containerd.dunnage.v2 namespace="a b"\n'
    assert re.fullmatch(stamp + rest + re.escape(fields), line)


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (logging.ERROR, "error"),
        (logging.CRITICAL, "fatal"),
    ],
)
def test_levels_have_logrus_names(pipe: tuple[int, int], level: int, name: str) -> None:
    """The daemon's tools look for logrus' words."""
    read_end, write_end = pipe
    logger(write_end).log(level, "x")
    assert f" level={name} " in os.read(read_end, 4096).decode()


def test_a_traceback_is_one_line_too(pipe: tuple[int, int]) -> None:
    """One record is one line, whatever is in it."""
    read_end, write_end = pipe
    try:
        json.loads("{")
    except ValueError:
        logger(write_end).exception("no\nluck")
    (line,) = os.read(read_end, 65536).decode().splitlines()
    assert r"no\nluck\nTraceback" in line
    assert line.endswith('namespace="a b"')


@pytest.mark.parametrize("text", ["x" * 100_000, "é" * 100_000, '"' * 100_000])
def test_a_long_record_is_cut(pipe: tuple[int, int], text: str) -> None:
    """A line is no longer than a pipe takes at once, and keeps its end and its form."""
    read_end, write_end = pipe
    log = logger(write_end)
    log.info(text)
    log.info("next")
    data = os.read(read_end, 1 << 20)
    first, second = data.decode().splitlines()
    assert len(first.encode()) < 4096
    found = re.search(r"msg=(\".*\") runtime=", first)
    assert found
    assert json.loads(found[1]).startswith(text[:100])
    assert ' msg="next" ' in second


def test_a_full_fifo_drops_records_whole(pipe: tuple[int, int]) -> None:
    """Nobody reads: no write blocks, and the next that fits says how many were lost."""
    read_end, write_end = pipe
    log = logger(write_end)
    for number in range(1000):
        log.info("%d %s", number, "x" * 1000)
    lines = os.read(read_end, 1 << 20).decode().splitlines()
    assert 40 < len(lines) < 70
    assert all(line.endswith('namespace="a b"') for line in lines)
    log.info("again")
    log.info("and again")
    first, second = os.read(read_end, 1 << 20).decode().splitlines()
    assert first.endswith(f" dropped={1000 - len(lines)}")
    assert second.endswith('namespace="a b"')


def test_a_write_that_fails_harms_nobody() -> None:
    """A record that cannot be written is dropped in silence."""
    full = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    log = logger(full)
    log.info("x")
    os.close(full)
    log.info("y")


PROGRAM = """
import logging, os, sys
from dunnage.shim import log
log.set_up({}, debug="debug" in sys.argv)
logging.getLogger("x").debug("quiet")
logging.getLogger("x").info("loud")
os.write(2, b"raw\\n")
"""


def set_up(directory: Path, *words: str) -> None:
    """Set the log up in a process of its own, and log."""
    argv = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(argv, cwd=directory, check=True, stderr=subprocess.PIPE)
    assert b"raw\n" == done.stderr or not done.stderr


@pytest.mark.parametrize("debug", [True, False])
def test_the_fifo_becomes_stderr(tmp_path: Path, debug: bool) -> None:
    """Lines and Python's last words go to the fifo; debug lines if asked for."""
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        set_up(tmp_path, *(["debug"] if debug else []))
        lines = os.read(reader, 65536).decode().splitlines()
    finally:
        os.close(reader)
    expected = ['msg="quiet"'] if debug else []
    expected += ['msg="loud"', "raw"]
    assert len(expected) == len(lines)
    assert all(part in line for part, line in zip(expected, lines, strict=True))


def test_without_a_reader_nothing_waits(tmp_path: Path) -> None:
    """A daemon that is away keeps no shim from starting."""
    os.mkfifo(tmp_path / "log")
    set_up(tmp_path)


def test_without_a_fifo_stderr_stays(tmp_path: Path) -> None:
    """A daemon that has made no fifo gets no log; nothing is made in its place."""
    set_up(tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    """Where the log is a plain file, what is in it stays."""
    (tmp_path / "log").write_text("before\n")
    set_up(tmp_path)
    first, second, third = (tmp_path / "log").read_text().splitlines()
    assert ("before", "raw") == (first, third)
    assert 'msg="loud"' in second
