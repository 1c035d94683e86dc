"""What is held of a process that was deleted, for how long, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import pytest
from tests.host.stdio.clients import open_fds, run, until
from tests.host.stdio.test_pty import Terminal
from tests.host.stdio.test_streams import FIFO_BYTES, at_end, open_reader, read_now

from dunnage.host.stdio import Held, Stdio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.host.stdio.clients import Processes

    MakeFifo = Callable[[str], Path]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Expect no descriptor to be left."""
    before = open_fds()
    yield
    assert before == open_fds()


async def everything(reader: int, stdio: Stdio) -> bytes:
    """Read to the end."""
    got = b""

    def take() -> bool:
        nonlocal got
        got += read_now(reader)
        return stdio.finished.done()

    await until(take)
    got += read_now(reader)
    assert at_end(reader)
    os.close(reader)
    return got


async def stalled(
    out: Path, processes: Processes, size: int, and_then: str = ""
) -> Stdio:
    """Have streams with ``size`` bytes that the reader, which is there, leaves."""
    stdio = Stdio.open(stdout=str(out))
    process = processes.child(stdio, f"head -c {size} /dev/zero; {and_then}")
    stdio.start()
    await until(lambda: stdio.unread_bytes == size)
    if not and_then:
        await until(lambda: process.poll() == 0)
    return stdio


# What fits into the fifo; what fills our pipe, too.
@pytest.mark.parametrize("size", [5, FIFO_BYTES + 40_000])
def test_a_reader_that_comes_to_again_gets_it_all(
    size: int, fifo: MakeFifo, processes: Processes
) -> None:
    """output-held: what was unread is there, to its end, and then nothing is held."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        stdio = await stalled(out, processes, size)
        held = Held()
        held.keep(stdio, "c")
        assert 1 == len(held)
        await asyncio.wait((stdio.finished,), timeout=0.3)
        assert bytes(size) == await everything(reader, stdio)
        await held.drained(10)
        assert (0, 0) == (len(held), stdio.lost_bytes)

    run(scenario())


def test_a_reader_may_leave_and_another_come(
    fifo: MakeFifo, processes: Processes
) -> None:
    """output-held: while the fifo has a name its next reader finds all of it."""
    out = fifo("out")

    async def scenario() -> None:
        first = open_reader(out)
        stdio = await stalled(out, processes, FIFO_BYTES + 40_000)
        held = Held()
        held.keep(stdio, "c")
        os.close(first)
        await asyncio.wait((stdio.finished,), timeout=0.2)
        assert not stdio.finished.done()
        size = FIFO_BYTES + 40_000
        assert bytes(size) == await everything(open_reader(out), stdio)
        await held.drained(10)

    run(scenario())


def test_what_was_read_is_closed_at_once(fifo: MakeFifo, processes: Processes) -> None:
    """A daemonised child that has the output, and is silent, withholds its end not."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        stdio = Stdio.open(stdout=str(out))
        processes.child(stdio, "echo hello; exec sleep 60")
        stdio.start()
        await until(lambda: read_now(reader) == b"hello\n")
        held = Held()
        held.keep(stdio, "c")
        assert 0 == len(held)
        assert at_end(reader)
        os.close(reader)

    run(scenario())


def test_what_is_written_while_held_is_not_lost(
    fifo: MakeFifo, processes: Processes
) -> None:
    """output-held: a daemonised child adds to what is held; read, all is closed."""
    out, more = fifo("out"), fifo("more")

    async def scenario() -> None:
        reader = open_reader(out)
        then = f"read x <{more}; echo later; exec sleep 60"
        stdio = await stalled(out, processes, FIFO_BYTES + 5, then)
        held = Held()
        held.keep(stdio, "c")
        more.write_text("\n")
        await until(lambda: stdio.unread_bytes == FIFO_BYTES + 11)
        got = await everything(reader, stdio)
        assert bytes(FIFO_BYTES + 5) + b"later\n" == got
        await held.drained(10)

    run(scenario())


def test_a_reader_that_is_gone_for_good(
    fifo: MakeFifo, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """No reader, and no name by which one could come: given up at once, and said."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        stdio = await stalled(out, processes, FIFO_BYTES + 5, "exec sleep 60")
        held = Held()
        held.keep(stdio, "c")
        out.unlink()
        await asyncio.wait((stdio.finished,), timeout=0.2)
        assert 1 == len(held)
        os.close(reader)
        await held.drained(10)
        assert stdio.finished.done()

    run(scenario())
    said = f"{FIFO_BYTES + 5} bytes of its output were never read"
    assert [said] == [record.message for record in caplog.records]


def test_a_reader_that_never_comes(
    fifo: MakeFifo, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit ends it: all is closed, and it is said how much was lost."""
    out = fifo("out")

    async def scenario() -> None:
        stdio = await stalled(out, processes, FIFO_BYTES + 5)
        held = Held(limit_s=0.1)
        held.keep(stdio, "c")
        await asyncio.wait_for(stdio.finished, 10)
        await held.drained(10)
        assert 0 == len(held)

    run(scenario())
    said = f"{FIFO_BYTES + 5} bytes of its output were never read"
    assert [said] == [record.message for record in caplog.records]
    assert ["c"] == [record.__dict__["container"] for record in caplog.records]


def test_the_limit_is_one_of_silence(fifo: MakeFifo, processes: Processes) -> None:
    """A reader that takes a little from time to time is waited for beyond it."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        stdio = await stalled(out, processes, FIFO_BYTES)
        held = Held(limit_s=0.7)
        loop = asyncio.get_running_loop()
        began = loop.time()
        held.keep(stdio, "c")
        got = 0
        while got < 15 * 4096:
            got += len(os.read(reader, 4096))
            await asyncio.wait((stdio.finished,), timeout=0.1)
        assert loop.time() - began > 2 * 0.7
        assert 1 == len(held)
        assert bytes(FIFO_BYTES - got) == await everything(reader, stdio)
        await held.drained(10)

    run(scenario())


def test_who_leaves_gives_up_the_rest(
    fifo: MakeFifo, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """A shim that leaves waits for what is held as long as it says, and no longer."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        stdio = await stalled(out, processes, FIFO_BYTES + 5, "exec sleep 60")
        held = Held()
        held.keep(stdio, "c")
        await held.drained(0.1)
        assert stdio.finished.done()
        # What is in the fifo is still for the reader that is there.
        assert bytes(FIFO_BYTES) == read_now(reader)
        assert at_end(reader)
        os.close(reader)

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert ["5 bytes of its output were never read"] == [
        record.message for record in caplog.records
    ]


def test_of_a_terminal(tmp_path: Path, fifo: MakeFifo, processes: Processes) -> None:
    """output-held: what its process wrote before its end is held likewise."""
    out = fifo("out")
    size = FIFO_BYTES + 3000

    async def scenario() -> None:
        reader = open_reader(out)
        stdio = Stdio.open(stdout=str(out), console_in=str(tmp_path))
        terminal = Terminal()
        terminal.raw()
        terminal.send_to(stdio.console_path)
        stdio.close_child_ends()
        stdio.start()
        # More than the fifo holds, less than fits into the terminal as well.
        processes.to_terminal(terminal.slave, f"head -c {size} /dev/zero")
        terminal.close_slave()
        await until(lambda: processes.started[-1].poll() == 0)
        stdio.process_ended()
        assert not await stdio.drained(10)
        held = Held()
        held.keep(stdio, "c")
        assert 1 == len(held)
        assert bytes(size) == await everything(reader, stdio)
        await held.drained(10)

    run(scenario())
