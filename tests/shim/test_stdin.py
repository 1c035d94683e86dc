"""CloseIO of a process with pipes, through the shim binary (protocol: 6.3)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dunnage.api import process_pb2

from .harness import Shim, in_loop, until
from .test_held import Reader

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
SCRIPT = ["sh", "-c", "cat; exit 5"]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[int]:
    """Be a client of a stdin for as long as the block runs."""
    fd = os.open(path, os.O_WRONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@RUNTIMES
@pytest.mark.parametrize("exec_id", ["", "e"], ids=["init", "exec"])
@in_loop
async def test_it_ends_with_close_io_and_its_last_client(
    tmp_path: Path, runtime: str, exec_id: str
) -> None:
    """Neither alone is the end: clients come and go before it, and write after it."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        stdin = tmp_path / "in"
        os.mkfifo(stdin)
        reader = Reader(tmp_path / "out")
        fields: dict[str, Any] = {"stdin": str(stdin), "stdout": str(reader.path)}
        await shim.up("c", ["sleep", "1000"] if exec_id else SCRIPT)
        await shim.call("c", "create", **({} if exec_id else fields))
        if exec_id:
            await shim.call("c", "start")
            await shim.call("c", "close_io", stdin=True)  # there is none: no matter
            await shim.exec("c", exec_id, SCRIPT, **fields)
            # Nothing is open yet, so this closes nothing.
            await shim.call("c", "close_io", exec_id=exec_id, stdin=True)
        await shim.call("c", "start", exec_id=exec_id)

        async def read(text: bytes) -> None:
            await until(lambda: reader.read() or reader.got.endswith(text))

        with writing(stdin) as first:
            os.write(first, b"one\n")
            await read(b"one\n")
        with writing(stdin) as second:
            os.write(second, b"two\n")
            await read(b"two\n")
            for _ in range(2):
                await shim.call("c", "close_io", exec_id=exec_id, stdin=True)
            os.write(second, b"three\n")
            await read(b"three\n")
            state = await shim.call("c", "state", exec_id=exec_id)
            assert state.status == process_pb2.RUNNING
        assert 5 == (await shim.call("c", "wait", exec_id=exec_id)).exit_status
        assert b"one\ntwo\nthree\n" == reader.got
        await shim.call("c", "close_io", exec_id=exec_id, stdin=True)
        await shim.call("c", "delete", exec_id=exec_id)
        os.close(reader.fd)
        if exec_id:
            await shim.call("c", "kill", signal=9)
            await shim.call("c", "wait")
            await shim.call("c", "delete")
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
