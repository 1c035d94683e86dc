"""Readers and writers as clients have them, and processes as runtimes start them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dunnage.host.stdio import Stdio


T = TypeVar("T")


class Processes:
    """Starts processes, and sees that none outlives its test."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def child(self, streams: Stdio, script: str) -> subprocess.Popen[bytes]:
        """Start a shell script on the streams, as the runtime would be."""
        stdin, stdout, stderr = streams.child
        process = subprocess.Popen(
            ["/bin/sh", "-c", script], stdin=stdin, stdout=stdout, stderr=stderr
        )
        self.started.append(process)
        streams.close_child_ends()
        return process

    def to_terminal(self, slave: int, script: str) -> subprocess.Popen[bytes]:
        """Start a shell script that writes to a terminal."""
        process = subprocess.Popen(["/bin/sh", "-c", script], stdout=slave)
        self.started.append(process)
        return process

    def reader(self, fifo: Path, into: Path) -> subprocess.Popen[bytes]:
        """Start a client that reads the fifo to its end."""
        with into.open("ab") as file:
            process = subprocess.Popen(["/bin/cat", str(fifo)], stdout=file)
        self.started.append(process)
        return process

    def python(self, script: str, *arguments: Path) -> subprocess.Popen[bytes]:
        """Start a client of another kind."""
        process = subprocess.Popen([sys.executable, "-I", "-c", script, *arguments])
        self.started.append(process)
        return process


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a test's scenario, which must not take for ever."""
    return asyncio.run(asyncio.wait_for(scenario, 30))


async def until(condition: Callable[[], object], limit_s: float = 10) -> None:
    """Give the loop its turns until ``condition`` holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.001)


def open_fds() -> set[str]:
    """Return what this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        # The descriptor that lists them is gone again.
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{entry.name}: {entry.readlink()}")
    return found
