"""Copying between fifos and descriptors of any kind; real containers are elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from dunnage.cli import streams as module
from dunnage.cli.streams import Streams

if TYPE_CHECKING:
    from pathlib import Path

    from dunnage.manager.client import Stdio

DATA = bytes(range(256)) * 2000


async def say(stdio: Stdio, out: bytes, err: bytes = b"") -> None:
    """Write as a shim does, and close."""
    fds = [os.open(path, os.O_WRONLY) for path in (stdio.stdout, stdio.stderr)]
    for fd, data in zip(fds, (out, err), strict=True):
        os.set_blocking(fd, False)
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                await asyncio.sleep(0)
        os.close(fd)


def test_outputs_to_files(tmp_path: Path) -> None:
    """Both outputs arrive whole, in files."""

    async def scenario() -> None:
        with (
            (tmp_path / "o").open("wb") as out,
            (tmp_path / "e").open("wb") as err,
            Streams(
                tmp_path / "f",
                stdin_fd=None,
                stdout_fd=out.fileno(),
                stderr_fd=err.fileno(),
            ) as streams,
        ):
            assert streams.stdio.stdin == ""
            await say(streams.stdio, DATA, b"error")
            await streams.drained()
        assert os.listdir(tmp_path / "f") == []

    asyncio.run(scenario())
    assert (tmp_path / "o").read_bytes() == DATA
    assert (tmp_path / "e").read_bytes() == b"error"


def test_slow_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is slower than the limit of silence loses nothing."""
    monkeypatch.setattr(module, "_QUIET_S", 0.01)
    source, sink = os.pipe()
    other = os.open(os.devnull, os.O_WRONLY)

    async def scenario() -> bytes:
        with Streams(
            tmp_path, stdin_fd=None, stdout_fd=sink, stderr_fd=other
        ) as streams:
            await say(streams.stdio, DATA[:100_000])
            drained = asyncio.ensure_future(streams.drained())
            await asyncio.sleep(0.1)
            assert not drained.done()
            got = b""
            while not drained.done():
                got += os.read(source, 4096)
                await asyncio.sleep(0)
        os.set_blocking(source, False)
        try:
            while chunk := os.read(source, 65536):
                got += chunk
        except BlockingIOError:
            pass
        return got

    try:
        assert asyncio.run(scenario()) == DATA[:100_000]
    finally:
        for fd in (source, sink, other):
            os.close(fd)


def test_output_that_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who keeps an output open and says nothing is not waited for."""
    monkeypatch.setattr(module, "_QUIET_S", 0.01)
    null = os.open(os.devnull, os.O_WRONLY)

    async def scenario() -> None:
        with Streams(
            tmp_path, stdin_fd=None, stdout_fd=null, stderr_fd=null
        ) as streams:
            fd = os.open(streams.stdio.stdout, os.O_WRONLY)
            try:
                async with asyncio.timeout(10):
                    await streams.drained()
            finally:
                os.close(fd)

    asyncio.run(scenario())
    os.close(null)


def test_full_file(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Output that cannot be written is read on, and that is said once."""
    full = os.open("/dev/full", os.O_WRONLY)

    async def scenario() -> None:
        with Streams(
            tmp_path, stdin_fd=None, stdout_fd=full, stderr_fd=full
        ) as streams:
            await say(streams.stdio, DATA)
            await streams.drained()

    asyncio.run(scenario())
    os.close(full)
    assert caplog.text.count("output is lost") == 1


@pytest.mark.parametrize("kind", ["file", "pipe", "closed"])
def test_input(tmp_path: Path, kind: str) -> None:
    """What stdin has arrives, and its end is told; a closed one is at its end."""
    (tmp_path / "in").write_bytes(DATA)
    null = os.open(os.devnull, os.O_WRONLY)
    expected = DATA
    if kind == "file":
        source = os.open(tmp_path / "in", os.O_RDONLY)
    elif kind == "pipe":
        source, writer = os.pipe()
        expected = DATA[:1000]
        os.write(writer, expected)
        os.close(writer)
    else:
        source, expected = os.open(tmp_path / "in", os.O_WRONLY), b""

    async def scenario() -> bytes:
        with Streams(
            tmp_path / "f", stdin_fd=source, stdout_fd=null, stderr_fd=null
        ) as streams:
            ended = asyncio.Event()
            reader = os.open(streams.stdio.stdin, os.O_RDONLY | os.O_NONBLOCK)
            streams.begin_input(ended.set)
            got = b""
            async with asyncio.timeout(10):
                while not (ended.is_set() and len(got) >= len(expected)):
                    with contextlib.suppress(BlockingIOError):
                        got += os.read(reader, 65536)
                    await asyncio.sleep(0)
            assert os.read(reader, 1) == b""
            os.close(reader)
        return got

    assert asyncio.run(scenario()) == expected
    os.close(source)
    os.close(null)
