"""The streams of a process, with real fifos, real clients and real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import stat
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.host.stdio.clients import open_fds, run, until

from dunnage.errors import DunnageError, Unimplemented
from dunnage.host.stdio import Stdio

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.host.stdio.clients import Processes

    MakeFifo = Callable[[str], Path]

FIFO_BYTES = 65536  # what a fifo holds, and a pipe


def read_now(fd: int) -> bytes:
    """Return what a non-blocking descriptor has to offer, b"" at its end or for now."""
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""


def open_reader(path: Path) -> int:
    """Open a fifo as a client that waits for nobody."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def at_end(fd: int) -> bool:
    """Tell whether a reader has come to the end of its fifo."""
    try:
        return os.read(fd, 1) == b""
    except BlockingIOError:
        return False


def test_megabytes_pass_unchanged(
    tmp_path: Path, fifo: MakeFifo, processes: Processes
) -> None:
    """Both outputs arrive byte for byte, each in its own fifo, then end."""
    wanted = random.Random(7).randbytes(5 << 20)
    (tmp_path / "wanted").write_bytes(wanted)
    out, err = fifo("out"), fifo("err")

    async def scenario() -> None:
        readers = [
            processes.reader(out, tmp_path / "got-out"),
            processes.reader(err, tmp_path / "got-err"),
        ]
        streams = Stdio.open(stdout=str(out), stderr=str(err))
        processes.child(streams, f"cat {tmp_path}/wanted; cat {tmp_path}/wanted >&2")
        streams.start()
        assert await streams.drained(30)
        await until(lambda: all(reader.poll() == 0 for reader in readers))

    before = open_fds()
    run(scenario())
    assert before == open_fds()
    assert wanted == (tmp_path / "got-out").read_bytes()
    assert wanted == (tmp_path / "got-err").read_bytes()


def test_one_name_for_both_outputs_keeps_their_order(
    tmp_path: Path, fifo: MakeFifo, processes: Processes
) -> None:
    """When stdout and stderr are one fifo, it gets every line in the order written."""
    both = fifo("both")

    async def scenario() -> None:
        processes.reader(both, tmp_path / "got")
        streams = Stdio.open(stdout=str(both), stderr=str(both))
        processes.child(
            streams,
            "i=0; while [ $i -lt 100 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done",
        )
        streams.start()
        assert await streams.drained(10)

    run(scenario())
    wanted = "".join(f"o{i}\ne{i}\n" for i in range(100))
    assert wanted == (tmp_path / "got").read_text()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("stdout", "out no input\n"), ("stderr", "err\n"), ("stdin", "")],
)
def test_each_stream_alone(
    name: str, wanted: str, tmp_path: Path, fifo: MakeFifo, processes: Processes
) -> None:
    """A stream without a name is /dev/null, whichever of them have one."""
    path = fifo(name)

    async def scenario() -> None:
        if name != "stdin":
            processes.reader(path, tmp_path / "got")
        streams = Stdio.open(**{name: str(path)})  # type: ignore[arg-type]
        process = processes.child(
            streams, "read line || line=no; echo out $line input; echo err >&2"
        )
        streams.start()
        streams.close_stdin()
        await until(lambda: process.poll() == 0)
        assert await streams.drained(10)
        streams.close()
        await streams.finished

    (tmp_path / "got").touch()
    before = open_fds()
    run(scenario())
    assert before == open_fds()
    assert wanted == (tmp_path / "got").read_text()


def test_no_stream_at_all_is_over_at_once() -> None:
    """With nothing but /dev/null there is nothing to wait for."""

    async def scenario() -> None:
        streams = Stdio.open()
        assert len(set(streams.child)) == 1
        streams.close_child_ends()
        streams.close_stdin()
        streams.start()
        assert await streams.drained(10)

    before = open_fds()
    run(scenario())
    assert before == open_fds()


def test_stdio_survives_a_reader_that_goes_away_and_comes_back(
    fifo: MakeFifo, processes: Processes
) -> None:
    """stdio-survives: what was written while nobody read is there for the next one."""
    out = fifo("out")

    async def scenario() -> bytes:
        first = open_reader(out)
        streams = Stdio.open(stdin=str(fifo("in")), stdout=str(out))
        keyboard = os.open(out.parent / "in", os.O_WRONLY)
        process = processes.child(streams, "cat")
        streams.start()
        os.write(keyboard, b"one\n")
        await until(lambda: read_now(first) == b"one\n")
        os.close(first)
        os.write(keyboard, b"two\n")
        os.write(keyboard, b"three\n")
        streams.close_stdin()
        os.close(keyboard)
        await until(lambda: process.poll() == 0)
        second = open_reader(out)
        got = b""
        while not got.endswith(b"three\n"):
            got += read_now(second)
            await asyncio.sleep(0)
        assert await streams.drained(10)
        assert at_end(second)
        os.close(second)
        streams.close()
        return got

    before = open_fds()
    assert run(scenario()) == b"two\nthree\n"
    assert before == open_fds()


def test_stdio_survives_a_reader_that_leaves_at_the_very_end(
    fifo: MakeFifo, processes: Processes
) -> None:
    """stdio-survives: what the last reader left unread is there for the next one."""
    out = fifo("out")

    async def scenario() -> None:
        first = open_reader(out)
        streams = Stdio.open(stdout=str(out))
        process = processes.child(streams, "echo tail")
        streams.start()
        await until(lambda: process.poll() == 0 and streams.progress == [(5, 5)])
        os.close(first)
        second = open_reader(out)
        await until(lambda: read_now(second) == b"tail\n")
        assert await streams.drained(10)
        assert at_end(second)
        os.close(second)

    run(scenario())


@pytest.mark.parametrize("script", ["echo late", "true"])
def test_a_reader_that_opens_after_the_end(
    script: str, tmp_path: Path, fifo: MakeFifo, processes: Processes
) -> None:
    """Who opens the fifo only after the process is gone gets it all, and its end."""
    out = fifo("out")

    async def scenario() -> None:
        streams = Stdio.open(stdout=str(out))
        process = processes.child(streams, script)
        streams.start()
        await until(lambda: process.poll() == 0)
        assert not await streams.drained(10, idle_s=0.05)
        reader = processes.reader(out, tmp_path / "got")
        await until(lambda: reader.poll() == 0)
        await streams.finished
        assert await streams.drained(10)

    before = open_fds()
    run(scenario())
    assert before == open_fds()
    wanted = b"late\n" if script == "echo late" else b""
    assert wanted == (tmp_path / "got").read_bytes()


def test_a_silent_process_and_a_reader_that_opened_meanwhile(
    fifo: MakeFifo, processes: Processes
) -> None:
    """A reader that came after the opening gets its end, though nothing was written."""
    out = fifo("out")

    async def scenario() -> None:
        streams = Stdio.open(stdout=str(out))
        process = processes.child(streams, "true")
        reader = open_reader(out)
        streams.start()
        await until(lambda: process.poll() == 0)
        assert await streams.drained(10)
        assert at_end(reader)
        os.close(reader)

    run(scenario())


def test_a_fifo_that_nobody_can_read_is_given_up(
    fifo: MakeFifo, processes: Processes
) -> None:
    """Unlinked and without a reader, it is closed; with one it waits to be read."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        streams = Stdio.open(stdout=str(out))
        process = processes.child(streams, "echo unheard")
        streams.start()
        await until(lambda: process.poll() == 0 and streams.progress == [(8, 8)])
        out.unlink()
        assert not await streams.drained(10, idle_s=0.05)
        assert (False, 8) == (streams.is_read, streams.unread_bytes)
        os.close(reader)
        await asyncio.wait_for(streams.finished, 10)
        assert not await streams.drained(10)
        assert (0, 8) == (streams.unread_bytes, streams.lost_bytes)

    before = open_fds()
    run(scenario())
    assert before == open_fds()


def test_stdio_survives_a_stalled_reader(fifo: MakeFifo, processes: Processes) -> None:
    """stdio-survives: the process waits for a stalled reader; Delete and we do not."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        streams = Stdio.open(stdout=str(out))
        process = processes.child(streams, "head -c 300000 /dev/zero")
        streams.start()
        await until(lambda: streams.progress == [(FIFO_BYTES, FIFO_BYTES)])

        turns, cpu = 0, time.process_time()
        pump = streams._outputs[str(out), False]._pump
        assert pump
        one_turn = pump._turn

        def counted() -> None:
            nonlocal turns
            turns += 1
            one_turn()

        pump._turn = counted  # type: ignore[method-assign]
        assert not await streams.drained(10, idle_s=0.2)
        assert turns == 0, "a full fifo costs no turn of the loop"
        assert time.process_time() - cpu < 0.1
        assert process.poll() is None
        pump._turn = one_turn  # type: ignore[method-assign]

        left = 300000
        while left:
            left -= len(read_now(reader))
            await asyncio.sleep(0)
        assert await streams.drained(10)
        os.close(reader)

    run(scenario())


def test_short_lines_fill_a_fifo_to_its_last_page(
    fifo: MakeFifo, processes: Processes
) -> None:
    """A fifo that nobody reads takes as many bytes of single lines as of one block."""
    out = fifo("out")

    async def scenario() -> None:
        lines = fifo("lines")
        streams = Stdio.open(stdin=str(lines), stdout=str(out))
        typed = os.open(lines, os.O_WRONLY)
        processes.child(streams, "while read line; do echo $line; done")
        streams.start()

        def came(count: int) -> bool:
            return streams.progress == [(count, count)]

        for number in range(1, 101):
            os.write(typed, b"line\n")
            await until(partial(came, 5 * number))
        os.close(typed)
        streams.close()

    run(scenario())


def test_giving_up_leaves_the_rest_to_the_reader(
    fifo: MakeFifo, processes: Processes
) -> None:
    """After close a reader that is there still gets what was in the fifo."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        streams = Stdio.open(stdout=str(out))
        process = processes.child(streams, "echo rest; exec sleep 60")
        streams.start()
        await until(lambda: streams.progress == [(5, 5)])
        streams.close()
        streams.close()
        await streams.finished
        assert read_now(reader) == b"rest\n"
        assert at_end(reader)
        os.close(reader)
        process.kill()

    before = open_fds()
    run(scenario())
    assert before == open_fds()


def test_a_grandchild_that_keeps_stdout_does_not_keep_delete(
    fifo: MakeFifo, processes: Processes
) -> None:
    """A daemonised child holds the pipe; drained returns soon, and copying goes on."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        hold = fifo("hold")
        streams = Stdio.open(stdout=str(out))
        process = processes.child(streams, f"(read x <{hold}; echo bye) & echo hello")
        streams.start()
        await until(lambda: process.poll() == 0)
        await until(lambda: read_now(reader) == b"hello\n")
        began = time.monotonic()
        assert not await streams.drained(10, idle_s=0.1)
        assert time.monotonic() - began < 5
        hold.write_bytes(b"\n")
        await until(lambda: read_now(reader) == b"bye\n")
        assert await streams.drained(10)
        os.close(reader)

    run(scenario())


def test_drained_has_a_limit_for_output_without_end(
    tmp_path: Path, fifo: MakeFifo, processes: Processes
) -> None:
    """A process that never stops to write keeps nobody beyond the limit."""
    out = fifo("out")

    async def scenario() -> None:
        processes.reader(out, tmp_path / "got")
        streams = Stdio.open(stdout=str(out))
        process = processes.child(streams, "while :; do echo on; done")
        streams.start()
        assert not await streams.drained(0.15, idle_s=60)
        process.kill()
        assert await streams.drained(10)

    run(scenario())


def test_drained_can_be_cancelled(fifo: MakeFifo, processes: Processes) -> None:
    """Cancelling drained leaves the copying as it is."""
    out = fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        hold = fifo("hold")
        streams = Stdio.open(stdout=str(out))
        processes.child(streams, f"read x <{hold}; echo still here")
        streams.start()
        waiting = asyncio.ensure_future(streams.drained(10, idle_s=10))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        hold.write_bytes(b"\n")
        await until(lambda: read_now(reader) == b"still here\n")
        assert await streams.drained(10)
        os.close(reader)

    run(scenario())


def test_stdin_ends_with_close_io_and_the_last_writer(
    fifo: MakeFifo, processes: Processes
) -> None:
    """Neither CloseIO nor the client's leaving alone ends the input: both do."""
    keys, out = fifo("keys"), fifo("out")

    async def scenario() -> None:
        reader = open_reader(out)
        streams = Stdio.open(stdin=str(keys), stdout=str(out))
        process = processes.child(streams, "cat; echo end")
        streams.start()

        client = os.open(keys, os.O_WRONLY)
        os.write(client, b"a\n")
        os.close(client)
        await until(lambda: read_now(reader) == b"a\n")
        client = os.open(keys, os.O_WRONLY)  # it comes back, and nothing has ended
        os.write(client, b"b\n")
        await until(lambda: read_now(reader) == b"b\n")

        streams.close_stdin()
        streams.close_stdin()
        os.write(client, b"c\n")  # after CloseIO, but the client is still there
        await until(lambda: read_now(reader) == b"c\n")
        assert process.poll() is None
        os.close(client)
        await until(lambda: read_now(reader) == b"end\n")
        await until(lambda: process.poll() == 0)
        assert await streams.drained(10)
        os.close(reader)

    before = open_fds()
    run(scenario())
    assert before == open_fds()


def test_stdin_closed_before_the_start_ends_at_once(
    fifo: MakeFifo, processes: Processes
) -> None:
    """CloseIO may come before anything is copied, and with no client at all."""
    keys = fifo("keys")

    async def scenario() -> None:
        streams = Stdio.open(stdin=str(keys))
        streams.close_stdin()
        process = processes.child(streams, "cat")
        streams.start()
        await until(lambda: process.poll() == 0)
        streams.close()

    run(scenario())


def test_megabytes_of_stdin(
    tmp_path: Path, fifo: MakeFifo, processes: Processes
) -> None:
    """A client's input arrives byte for byte, though the process reads it slowly."""
    wanted = random.Random(8).randbytes(3 << 20)
    (tmp_path / "wanted").write_bytes(wanted)
    keys = fifo("keys")

    async def scenario() -> None:
        streams = Stdio.open(stdin=str(keys))
        process = processes.child(streams, f"dd bs=1000 of={tmp_path}/got 2>/dev/null")
        streams.start()
        client = processes.python(
            "import sys; open(sys.argv[2], 'wb').write(open(sys.argv[1], 'rb').read())",
            tmp_path / "wanted",
            keys,
        )
        await until(lambda: client.poll() == 0)
        streams.close_stdin()
        await until(lambda: process.poll() == 0)
        streams.close()

    run(scenario())
    assert wanted == (tmp_path / "got").read_bytes()


def test_a_process_that_closes_stdin_early(
    fifo: MakeFifo, processes: Processes
) -> None:
    """Input that nobody will read ends our side quietly; the outputs go on."""
    keys, out, hold = fifo("keys"), fifo("out"), fifo("hold")

    async def scenario() -> None:
        reader = open_reader(out)
        streams = Stdio.open(stdin=str(keys), stdout=str(out))
        client = os.open(keys, os.O_WRONLY)
        processes.child(streams, f"exec <&-; echo closed; read x <{hold}; echo end")
        streams.start()
        await until(lambda: read_now(reader) == b"closed\n")
        os.write(client, b"unwanted\n")
        await until(lambda: streams._input and not streams._input._sink.is_open)
        with pytest.raises(BrokenPipeError):
            os.write(client, b"more\n")
        os.close(client)
        hold.write_bytes(b"\n")
        await until(lambda: read_now(reader) == b"end\n")
        assert await streams.drained(10)
        os.close(reader)

    before = open_fds()
    run(scenario())
    assert before == open_fds()


def test_a_process_that_does_not_read_its_stdin_costs_nothing(
    fifo: MakeFifo, processes: Processes
) -> None:
    """A full stdin pipe, and then a client that is gone, make no busy loop."""
    keys = fifo("keys")

    async def scenario() -> None:
        streams = Stdio.open(stdin=str(keys))
        client = os.open(keys, os.O_WRONLY | os.O_NONBLOCK)
        processes.child(streams, "exec sleep 60")
        streams.start()
        assert streams._input
        pump = streams._input._pump
        assert pump
        while pump._watched != pump._sink:
            with contextlib.suppress(BlockingIOError):
                os.write(client, b"x" * 4096)
            await asyncio.sleep(0)
        streams.close_stdin()
        os.close(client)
        cpu = time.process_time()
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await asyncio.wait((never,), timeout=0.1)
        assert time.process_time() - cpu < 0.05
        streams.close()

    run(scenario())


def test_the_ends_of_the_process_belong_to_its_user(fifo: MakeFifo) -> None:
    """A process that is not root may open /dev/stdout again; /dev/null stays root's."""

    async def scenario() -> None:
        streams = Stdio.open(stdin=str(fifo("in")), stdout=str(fifo("o")), uid=7, gid=8)
        owners = [(os.fstat(fd).st_uid, os.fstat(fd).st_gid) for fd in streams.child]
        assert owners[:2] == [(7, 8), (7, 8)]
        assert stat.S_ISCHR(os.fstat(streams.child[2]).st_mode)
        assert owners[2] == (0, 0)
        streams.close()

    run(scenario())


def test_nothing_is_inherited_unasked(fifo: MakeFifo) -> None:
    """Every descriptor that is opened closes on exec."""

    async def scenario() -> None:
        before = open_fds()
        streams = Stdio.open(stdin=str(fifo("in")), stdout=str(fifo("out")))
        opened = [int(entry.split(":")[0]) for entry in open_fds() - before]
        # stdin: fifo, closer, pipe; stdout: pipe, keeper, writer; and /dev/null
        assert len(opened) == 9
        assert [fd for fd in opened if os.get_inheritable(fd)] == []
        streams.close()

    run(scenario())


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        (
            "stdout",
            DunnageError,
            (
                "failed to start io pipe copy: unable to copy pipes: containerd-shim: "
                'opening file "{0}" failed: open {0}'
            ),
        ),
        (
            "stderr",
            DunnageError,
            (
                "failed to start io pipe copy: unable to copy pipes: containerd-shim: "
                'opening file "{0}" failed: open {0}'
            ),
        ),
        ("stdin", DunnageError, "failed to open stdin fifo {0}: stat {0}"),
    ],
)
def test_a_missing_fifo_is_named(
    name: str, kind: type[DunnageError], text: str, tmp_path: Path, fifo: MakeFifo
) -> None:
    """A path at which there is nothing is the error that containerd's shim gives."""
    missing = tmp_path / "missing"
    wanted = f"{text.format(missing)}: no such file or directory"

    async def scenario() -> None:
        names = {key: str(fifo(key)) for key in ("stdin", "stdout", "stderr")}
        with pytest.raises(kind) as caught:
            Stdio.open(**names | {name: str(missing)})  # type: ignore[arg-type]
        assert wanted == caught.value.message
        assert caught.value.code == 2

    before = open_fds()
    run(scenario())
    assert before == open_fds()


@pytest.mark.parametrize(
    ("uri", "kind", "text"),
    [
        ("gopher://x", DunnageError, "unknown STDIO scheme gopher"),
        ("/dev/null", Unimplemented, "stdio on /dev/null, which is not a fifo"),
        ("/etc", DunnageError, 'opening file "/etc" failed: open /etc: is a directory'),
        (
            "fifo:///x",
            DunnageError,
            'opening file "fifo:///x" failed: open fifo:///x: no such file',
        ),
        ("/a\0b", DunnageError, "invalid argument"),
    ],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_is_no_fifo_is_refused(
    stream: str, uri: str, kind: type[DunnageError], text: str
) -> None:
    """What cannot be a sink is a clear error, and leaves nothing open."""

    async def scenario() -> None:
        with pytest.raises(kind) as caught:
            Stdio.open(**{stream: uri})  # type: ignore[arg-type]
        assert text in caught.value.message
        assert kind.code == caught.value.code

    before = open_fds()
    run(scenario())
    assert before == open_fds()
