"""Twin of dunnage.publish.publisher, over each of its ways."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable
from itertools import count, groupby
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sockets import accept, recv, send_all

from dunnage.api import events_pb2
from dunnage.errors import (
    Aborted,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    Unknown,
)
from dunnage.publish import envelope
from dunnage.publish.forward import ENVELOPE_LIMIT_BYTES
from dunnage.publish.outbox import Outbox
from dunnage.publish.publisher import PROBES, Publisher
from dunnage.task.events import TaskCheckpointed, TaskStart
from dunnage.testing.daemon import (
    HANGING,
    LOST,
    TAKEN,
    TRUNCATED,
    Answer,
    FakeDaemon,
    refused,
    taken,
)

if TYPE_CHECKING:
    from pathlib import Path

TRIES = 3
LIMIT_S = 5.0


async def at_once() -> None:
    """Have room in the log."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a limit."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)


def heard(daemon: FakeDaemon) -> list[bytes]:
    """Return every envelope that a daemon has heard."""
    return [it.envelope for it in daemon.heard]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return where the daemon's event socket is."""
    return str(tmp_path / "ttrpc")


@pytest.fixture
def outbox() -> Outbox:
    """Return an outbox whose clock counts puts."""
    return Outbox("default", count(1).__next__)


def put(outbox: Outbox, *pids: int) -> list[bytes]:
    """Put events with these pids; return their envelopes."""
    before = len(outbox)
    for pid in pids:
        outbox.put(TaskStart("c1", pid))
    return list(outbox)[before:]


@contextlib.asynccontextmanager
async def publishing(
    outbox: Outbox, address: str, **options: Any
) -> AsyncIterator[Publisher]:
    """Have a publisher run for the block; its waits are short."""
    defaults: dict[str, Any] = {"back_off_s": (0.0, 0.001), "tries": TRIES}
    publisher = Publisher(outbox, "default", address, **defaults | options)
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        publisher.close()
        async with asyncio.timeout(LIMIT_S):
            await task


def test_all_in_order(path: str, outbox: Outbox) -> None:
    """fifo: what waits and what comes is said in order, once, in our namespace."""

    async def main() -> None:
        expected = put(outbox, 1, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            assert await publisher.drained(LIMIT_S)
            expected += put(outbox, 3)
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == expected
            expected_metadata = {"containerd-namespace-ttrpc": "default"}
            assert [it.metadata for it in daemon.heard] == [expected_metadata] * 3

    asyncio.run(main())


def test_address_with_scheme(path: str, outbox: Outbox) -> None:
    """An address may have its scheme or be a bare path."""

    async def main() -> None:
        expected = put(outbox, 1)
        async with (
            FakeDaemon(path) as daemon,
            publishing(outbox, f"unix://{path}") as publisher,
        ):
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == expected

    asyncio.run(main())


def test_one_in_flight(path: str, outbox: Outbox) -> None:
    """fifo: no event is said before the one in front of it was answered."""

    async def main() -> None:
        expected = put(outbox, 1, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            daemon.script = [HANGING]
            await until(lambda: len(daemon.heard) == 1)
            assert not await publisher.drained(0.02)
            assert heard(daemon) == expected[:1]
            daemon.wake()
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == expected

    asyncio.run(main())


def test_daemon_comes_later(
    path: str, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """stamped-at-emit: events wait for the daemon and keep the time of their emit."""

    async def main() -> None:
        expected = put(outbox, 1)
        async with publishing(outbox, path) as publisher:
            await until(lambda: "1 events wait to be said" in caplog.text)
            expected += put(outbox, 2, 3)
            async with FakeDaemon(path) as daemon:
                assert await publisher.drained(LIMIT_S)
                assert heard(daemon) == expected
                times = [
                    envelope.decode(data).timestamp.nanos for data in heard(daemon)
                ]
                assert times == [1, 2, 3]

    asyncio.run(main())
    assert len(caplog.records) == 1, "one line for one outage"


def test_daemon_restarts(path: str, outbox: Outbox) -> None:
    """fifo: a daemon that is killed and comes back gets what it has not had."""

    async def main() -> None:
        expected = put(outbox, 1)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            assert await publisher.drained(LIMIT_S)
            daemon.stop()
            expected += put(outbox, 2, 3)
            assert not await publisher.drained(0.02)
            daemon.start()
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == expected

    asyncio.run(main())


@pytest.mark.parametrize("kind", [InvalidArgument, Unimplemented, ResourceExhausted])
def test_refused_for_good(
    path: str,
    outbox: Outbox,
    caplog: pytest.LogCaptureFixture,
    kind: type[InvalidArgument | Unimplemented | ResourceExhausted],
) -> None:
    """An event that is refused for good is logged and does not block the next."""

    async def main() -> None:
        expected = put(outbox, 1, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            daemon.script = [refused(kind("no"))]
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == expected

    asyncio.run(main())
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "given up: /tasks/start" in caplog.text


@pytest.mark.parametrize("kind", [DeadlineExceeded, Unavailable])
def test_passing_trouble(
    path: str, outbox: Outbox, kind: type[DeadlineExceeded | Unavailable]
) -> None:
    """Trouble that is the daemon's own is waited out, the same bytes each time."""

    async def main() -> None:
        first, second = put(outbox, 1, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            daemon.script = [refused(kind("later"))] * (TRIES + 2)
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == [first] * (TRIES + 3) + [second]

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Unknown, Internal, NotFound, Aborted])
def test_poisoned(
    path: str,
    outbox: Outbox,
    caplog: pytest.LogCaptureFixture,
    kind: type[Unknown | Internal | NotFound | Aborted],
) -> None:
    """An event that alone keeps meeting trouble is dropped after the stated tries."""

    async def main() -> None:
        first, second = put(outbox, 1, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            daemon.script = [refused(kind("oh"))] * TRIES
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == [first] * TRIES + [second]

    asyncio.run(main())
    assert "given up" in caplog.text


def test_one_after_the_other_is_poisoned(
    path: str, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Events in a row that all meet trouble of their own do not block the next."""

    async def main() -> None:
        first, second, third, fourth = put(outbox, 1, 2, 3, 4)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            daemon.script = [refused(Unknown("oh"))] * (TRIES + 1)
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == [first] * TRIES + [second, third, fourth]

    asyncio.run(main())
    pids = re.findall(r"given up: /tasks/start .* pid: (\d)", caplog.text)
    assert pids == ["1", "2"]


@pytest.mark.parametrize("waiting", [1, 2, 20])
@pytest.mark.parametrize("kind", [Unknown, Internal])
def test_a_daemon_in_trouble_for_long_loses_nothing(
    path: str,
    outbox: Outbox,
    caplog: pytest.LogCaptureFixture,
    kind: type[Unknown | Internal],
    waiting: int,
) -> None:
    """fifo: trouble that every event meets is the daemon's, and is waited out."""

    async def main() -> None:
        expected = put(outbox, *range(waiting))
        a_round = TRIES + min(PROBES, waiting - 1)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            daemon.script = [refused(kind("oh"))] * (5 * a_round)
            daemon.script.append(HANGING)
            await until(lambda: daemon.script == [])
            assert publisher.describe().startswith(f"{waiting} events wait, the first")
            assert publisher.describe().endswith(f"answer {kind.code}: oh")
            daemon.wake()
            assert await publisher.drained(LIMIT_S)
            assert daemon.stream() == expected
            assert daemon.inexcusable() == []
            assert publisher.describe() == "no event waits"

    asyncio.run(main())
    assert "given up" not in caplog.text
    assert len(caplog.records) == 1


def test_trouble_counts_while_the_connection_lives(path: str, outbox: Outbox) -> None:
    """A connection lost in between starts the count anew."""

    async def main() -> None:
        first, second = put(outbox, 1, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            trouble = [refused(Unknown("oh"))] * (TRIES - 1)
            daemon.script = [*trouble, LOST, *trouble]
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == [first] * (2 * TRIES) + [second]

    asyncio.run(main())


def test_reply_lost(path: str, outbox: Outbox) -> None:
    """A connection lost before the reply means the same bytes again, at once."""

    async def main() -> None:
        first, second = put(outbox, 1, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            daemon.script = [LOST]
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == [first, first, second]

    asyncio.run(main())


def test_unanswered(path: str, outbox: Outbox) -> None:
    """A Forward unanswered beyond the limit counts as lost, and is said again."""

    async def main() -> None:
        first, second = put(outbox, 1, 2)
        async with (
            FakeDaemon(path) as daemon,
            publishing(outbox, path, answer_limit_s=0.02) as publisher,
        ):
            daemon.script = [HANGING]
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == [first, first, second]

    asyncio.run(main())


def test_garbage(path: str, outbox: Outbox) -> None:
    """A peer that speaks no ttrpc does not end the publisher."""

    async def main() -> None:
        expected = put(outbox, 1)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()
        listener.settimeout(0)
        async with publishing(outbox, path) as publisher:
            peer = await accept(listener)
            await recv(peer, 9)
            await send_all(peer, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            peer.close()
            listener.close()
            daemon = FakeDaemon(path)
            daemon.start()
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == expected
            daemon.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        "00 00 00 03 00 00 00 01 02 00 ff ff ff",  # no Response
        "00 00 00 05 00 00 00 01 02 00 12 03 ff ff ff",  # no Empty in it
        "00 00 00 00 00 00 00 01 03 00",  # a stream
    ],
)
def test_unreadable_answer(path: str, outbox: Outbox, answer: str) -> None:
    """An answer that cannot be read is trouble, not a refusal."""

    async def main() -> None:
        expected = put(outbox, 1)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()
        listener.settimeout(0)
        async with publishing(outbox, path) as publisher:
            peer = await accept(listener)
            await recv(peer, 4096)
            await send_all(peer, bytes.fromhex(answer))
            again = await recv(peer, 4096)
            peer.close()
            listener.close()
            assert again.endswith(expected[0][-20:]) or expected[0] in again
            assert not await publisher.drained(0)

    asyncio.run(main())


def test_above_the_frame_limit(
    path: str, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that no frame can hold is given up before anything is sent."""

    async def main() -> None:
        outbox.put(TaskCheckpointed("c1", "x" * ENVELOPE_LIMIT_BYTES))
        expected = put(outbox, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == expected

    asyncio.run(main())
    assert "above the frame limit" in caplog.text


def test_largest_event(path: str, outbox: Outbox) -> None:
    """The largest event that is not given up does fit into a frame."""

    async def main() -> None:
        outbox.put(TaskCheckpointed("c1", ""))
        room = ENVELOPE_LIMIT_BYTES - len(outbox.head() or b"") - 16
        outbox.put(TaskCheckpointed("c1", "x" * room))
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            assert await publisher.drained(LIMIT_S)
            assert len(heard(daemon)[1]) > ENVELOPE_LIMIT_BYTES - 16

    asyncio.run(main())


def test_drained_of_nothing(path: str, outbox: Outbox) -> None:
    """There is nothing to wait for when nothing waits."""

    async def main() -> None:
        async with publishing(outbox, path) as publisher:
            assert await publisher.drained(0)

    asyncio.run(main())


def test_drained_has_a_limit(path: str, outbox: Outbox) -> None:
    """Each wait for the end has its own limit, and one that ends leaves the others."""

    async def main() -> None:
        put(outbox, 1)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            daemon.script = [HANGING]
            longer = asyncio.create_task(publisher.drained(LIMIT_S))
            assert not await publisher.drained(0.01)
            assert not longer.done()
            daemon.wake()
            assert await longer

    asyncio.run(main())


def test_drained_cuts_the_back_off(
    path: str, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Asking for the end tries once more at once, however long the back-off is."""

    async def main() -> None:
        expected = put(outbox, 1)
        async with publishing(outbox, path, back_off_s=(3600.0,)) as publisher:
            await until(lambda: "wait to be said" in caplog.text)
            async with FakeDaemon(path) as daemon:
                assert await publisher.drained(LIMIT_S)
                assert heard(daemon) == expected

    asyncio.run(main())


def test_put_does_not_cut_the_back_off(
    path: str, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A burst of events does not turn into a burst of attempts."""

    async def main() -> None:
        put(outbox, 1)
        async with publishing(outbox, path, back_off_s=(3600.0,)) as publisher:
            await until(lambda: publisher._pause is not None)
            pause = publisher._pause
            put(outbox, 2, 3)
            assert publisher._pause is pause
            assert pause is not None
            assert not pause.done()

    asyncio.run(main())


def test_close_while_unanswered(
    path: str, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing ends the wait for an answer; what is unsaid can be logged one by one."""

    async def main() -> None:
        put(outbox, 1, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            daemon.script = [HANGING]
            await until(lambda: len(daemon.heard) == 1)
            drain = asyncio.create_task(publisher.drained(LIMIT_S))
            await asyncio.sleep(0)
            publisher.close()
            assert not await drain
            assert not await publisher.drained(LIMIT_S)
        await publisher.log_unsaid(at_once)

    asyncio.run(main())
    unsaid = [r.message for r in caplog.records if "never said" in r.message]
    assert unsaid == [
        f'event was never said: /tasks/start container_id: "c1" pid: {pid}'
        for pid in (1, 2)
    ]


def test_close_during_back_off(path: str, outbox: Outbox) -> None:
    """Closing ends a back-off, and the event stays in the outbox."""

    async def main() -> None:
        put(outbox, 1)
        async with publishing(outbox, path, back_off_s=(3600.0,)) as publisher:
            await until(lambda: publisher._pause is not None)
        assert len(outbox) == 1

    asyncio.run(main())


def test_close_while_connecting(path: str, outbox: Outbox) -> None:
    """A publisher that was closed while it was connecting says nothing any more."""

    def a_socket() -> socket.socket:
        sock = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.settimeout(0)
        return sock

    async def main() -> None:
        put(outbox, 1)
        listener = a_socket()
        listener.bind(path)
        listener.listen(0)
        backlog = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                a_socket().connect(path)
                backlog += 1
        async with publishing(outbox, path) as publisher:
            await asyncio.sleep(0)
            publisher.close()
            for _ in range(backlog):
                sockets.enter_context(listener.accept()[0])
        peer, _ = listener.accept()
        sockets.enter_context(peer)
        assert peer.recv(1) == b""
        assert len(outbox) == 1

    with contextlib.ExitStack() as sockets:
        asyncio.run(main())


def test_cancelled(path: str, outbox: Outbox) -> None:
    """A publisher that is cancelled in mid-air closes and keeps the event."""

    async def main() -> None:
        put(outbox, 1)
        async with FakeDaemon(path) as daemon:
            daemon.script = [HANGING]
            publisher = Publisher(outbox, "default", path)
            task = asyncio.create_task(publisher.run())
            await until(lambda: len(daemon.heard) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(outbox) == 1

    asyncio.run(main())


def test_own_bug(
    path: str,
    outbox: Outbox,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even a bug of ours ends the queue."""

    async def main() -> None:
        _, second = put(outbox, 1, 2)
        async with FakeDaemon(path) as daemon, publishing(outbox, path) as publisher:
            say = publisher._way.say
            calls = count(1)

            async def buggy(data: bytes) -> None:
                if next(calls) <= TRIES:
                    raise ZeroDivisionError
                await say(data)

            monkeypatch.setattr(publisher._way, "say", buggy)
            assert await publisher.drained(LIMIT_S)
            assert heard(daemon) == [second]

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


FAULTS: dict[str, Answer] = {
    "ok": TAKEN,
    "late": taken(0.001),
    "lost": LOST,
    "truncated": TRUNCATED,
    "hang": HANGING,
    "unavailable": refused(Unavailable("later")),
    "unknown": refused(Unknown("oh")),
}


@pytest.mark.slow
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(faults=st.lists(st.sampled_from(sorted(FAULTS)), max_size=12))
def test_fifo_under_faults(faults: list[str], tmp_path: Path) -> None:
    """fifo: whatever the daemon does, it hears each event, in order, unchanged."""

    async def main() -> None:
        outbox = Outbox("default", count(1).__next__)
        expected = put(outbox, 1, 2, 3, 4)
        path = tmp_path / "ttrpc"
        path.unlink(missing_ok=True)
        async with (
            FakeDaemon(str(path)) as daemon,
            publishing(
                outbox, str(path), tries=len(faults) + 1, answer_limit_s=0.01
            ) as publisher,
        ):
            daemon.script = [FAULTS[fault] for fault in faults]
            assert await publisher.drained(LIMIT_S)
            assert [data for data, _ in groupby(heard(daemon))] == expected
            assert daemon.stream() == expected
            assert daemon.inexcusable() == []

    asyncio.run(main())


class Program:
    """Stands in for what runs a program; ``ends`` are its results, then status 0."""

    def __init__(self, *ends: tuple[int, bytes] | Exception) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.stdins: list[bytes] = []
        self.limits_s: list[float] = []
        self.status = 0
        self.stderr = b""
        self._ends = list(ends)
        self._running = False

    async def __call__(self, argv: Any, *, stdin: bytes, timeout_s: float) -> Program:
        """Note the call and end as planned."""
        assert not self._running, "one process at a time"
        self.calls.append(tuple(argv))
        self.stdins.append(stdin)
        self.limits_s.append(timeout_s)
        self._running = True
        await asyncio.sleep(0)
        self._running = False
        end = self._ends.pop(0) if self._ends else (0, b"")
        if isinstance(end, Exception):
            raise end
        self.status, self.stderr = end
        return self


def run_with(outbox: Outbox, program: Program, binary: str = "/bin/sh") -> None:
    """Publish what waits by a program, without any address."""

    async def main() -> None:
        async with publishing(
            outbox,
            "",
            grpc_address="/run/containerd/containerd.sock",
            publish_binary=binary,
            run=program,
        ) as publisher:
            assert await publisher.drained(LIMIT_S)

    asyncio.run(main())


def test_binary(outbox: Outbox) -> None:
    """Without an address each event is one process, in order, with its Any on stdin."""
    program = Program()
    put(outbox, 1, 2)
    run_with(outbox, program)
    argv = (
        "/bin/sh --address /run/containerd/containerd.sock publish "
        "--topic /tasks/start --namespace default"
    )
    assert [" ".join(call) for call in program.calls] == [argv] * 2
    assert program.limits_s == [5.0] * 2
    name = b"containerd.events.TaskStart"
    values = [
        events_pb2.TaskStart(container_id="c1", pid=pid).SerializeToString()
        for pid in (1, 2)
    ]
    assert program.stdins == [
        b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(value)]) + value
        for value in values
    ]


def test_binary_by_name(outbox: Outbox) -> None:
    """The program may be one of PATH."""
    program = Program()
    put(outbox, 1)
    run_with(outbox, program, binary="sh")
    assert len(program.calls) == 1


@pytest.mark.parametrize(
    "end",
    [
        (1, b"containerd: dial unix /run/x: connect: connection refused\n"),
        (137, b""),
        FileNotFoundError(2, "No such file or directory"),
        DeadlineExceeded("too slow"),
    ],
)
def test_binary_fails(outbox: Outbox, end: tuple[int, bytes] | Exception) -> None:
    """fifo: a process that fails is run again before the next event's."""
    program = Program(*[end] * (TRIES + 1))
    put(outbox, 1, 2)
    run_with(outbox, program)
    assert len(program.calls) == TRIES + 3
    assert len({*program.stdins[: TRIES + 2]}) == 1


def test_binary_refused(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    """A process that says that the event is wrong is not run again for it."""
    program = Program((1, b"usage\ncontainerd: bad topic: invalid argument\n"))
    put(outbox, 1, 2)
    run_with(outbox, program)
    assert len(program.calls) == 2
    assert "bad topic" in caplog.text


@pytest.mark.parametrize("binary", ["", "/nonexistent", "nonexistent", "/etc/passwd"])
def test_log_only(
    outbox: Outbox, caplog: pytest.LogCaptureFixture, binary: str
) -> None:
    """With neither an address nor a program the events go to the log."""
    caplog.set_level(logging.INFO)
    program = Program()
    put(outbox, 1)
    run_with(outbox, program, binary=binary)
    assert program.calls == []
    assert 'event: /tasks/start container_id: "c1" pid: 1' in caplog.text


def test_address_comes_first(path: str, outbox: Outbox) -> None:
    """With an address the program is left alone, as daemons still name one."""

    async def main() -> None:
        program = Program()
        expected = put(outbox, 1)
        async with (
            FakeDaemon(path) as daemon,
            publishing(
                outbox, path, publish_binary="/bin/sh", run=program
            ) as publisher,
        ):
            assert await publisher.drained(LIMIT_S)
            assert (heard(daemon), program.calls) == (expected, [])

    asyncio.run(main())
