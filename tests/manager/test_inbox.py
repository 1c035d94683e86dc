"""Receiving takes turns; nothing that was answered is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from dunnage.api.events_pb2 import TaskStart
from dunnage.api.forward_pb2 import Envelope, ForwardRequest
from dunnage.api.services import EVENTS
from dunnage.api.typeurl import pack
from dunnage.descriptors import Timestamp
from dunnage.errors import ConnectionBroken, InvalidArgument, Unavailable
from dunnage.manager import inbox as inbox_module
from dunnage.manager.eventlog import Reader, Record, Writer
from dunnage.manager.inbox import Inbox
from dunnage.ttrpc.aio.client import Client

if TYPE_CHECKING:
    from dunnage.manager.places import Places

LIMIT_S = 10

HOLDER = """
import asyncio, sys
from dunnage.manager.inbox import Inbox
from dunnage.manager.places import Places

async def main():
    async with Inbox(Places.make("test", sys.argv[1], sys.argv[2])) as inbox:
        print(inbox.is_receiving, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def envelope(pid: int = 1, **changed: Any) -> Envelope:
    """Return what a shim forwards, with some of it changed."""
    fields: dict[str, Any] = {
        "timestamp": Timestamp(seconds=5, nanos=pid),
        "namespace": "test",
        "topic": "/tasks/start",
        "event": pack(TaskStart(container_id="c", pid=pid)),
    }
    return Envelope(**(fields | changed))


async def forward(places: Places, *envelopes: Envelope) -> None:
    """Forward events as a shim does."""
    client = await Client.connect(places.events_socket)
    try:
        for it in envelopes:
            await client.call(
                EVENTS.forward, ForwardRequest(envelope=it), timeout_s=LIMIT_S
            )
    finally:
        client.close()


def pids(records: list[Record]) -> list[int]:
    """Return which events these are."""
    return [TaskStart.FromString(record.value).pid for record in records]


def test_forward(places: Places) -> None:
    """on-disk-before-answer: what was answered is in the log, as it came, in order."""

    async def scenario() -> None:
        async with Inbox(places) as inbox:
            reader = inbox.reader()
            await forward(places, envelope(1), envelope(2))
            found = reader.read()
            assert pids(found) == [1, 2]
            assert found[0].timestamp_ns == 5_000_000_001
            assert found[0].type_url == "containerd.events.TaskStart"
            mode = os.stat(places.events_socket).st_mode
            assert stat.S_IMODE(mode) == 0o600
        assert not os.path.exists(places.events_socket)
        assert pids(Reader(places.event_log).read()) == [1, 2]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "changed",
    [
        {"namespace": ""},
        {"namespace": "a/b"},
        {"topic": ""},
        {"topic": "tasks/start"},
        {"topic": "/"},
        {"topic": "/tasks//start"},
        {"topic": "/tasks/?"},
        {"timestamp": None},
        {"timestamp": Timestamp(seconds=-62135596800)},
    ],
)
def test_invalid(places: Places, changed: dict[str, Any]) -> None:
    """What the daemon refuses is refused with the same code, and is not kept."""

    async def scenario() -> None:
        async with Inbox(places) as inbox:
            reader = inbox.reader()
            with pytest.raises(InvalidArgument):
                await forward(places, envelope(**changed))
            assert reader.read() == []

    asyncio.run(scenario())


def test_full_disk(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that cannot be kept is answered with the code that says: try again."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def scenario() -> None:
        async with Inbox(places):
            monkeypatch.setattr(Writer, "append", full)
            with pytest.raises(Unavailable, match="No space left"):
                await forward(places, envelope())

    asyncio.run(scenario())


def test_turns(places: Places) -> None:
    """One receives, the others read; when it leaves, another one receives."""

    async def scenario() -> None:
        async with Inbox(places) as second, Inbox(places) as first:
            assert (second.is_receiving, first.is_receiving) == (True, False)
            reader = first.reader()
            await forward(places, envelope(1))
            assert pids(reader.read()) == [1]
            await second.__aexit__(None, None, None)
            async with asyncio.timeout(LIMIT_S):
                while not first.is_receiving:
                    await asyncio.sleep(0)
            await forward(places, envelope(2))
            assert pids(reader.read()) == [2]
        assert not os.path.exists(places.events_socket)

    asyncio.run(scenario())


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_turns_of_processes(places: Places, ending: signal.Signals) -> None:
    """A receiver that leaves, or is killed, is followed by another process."""

    async def scenario(holder: subprocess.Popen[bytes]) -> None:
        async with Inbox(places) as inbox:
            assert not inbox.is_receiving
            reader = inbox.reader()
            await forward(places, envelope(1))
            holder.send_signal(ending)
            holder.wait(LIMIT_S)
            async with asyncio.timeout(LIMIT_S):
                while not inbox.is_receiving:
                    await asyncio.sleep(0)
            await forward(places, envelope(2))
            assert pids(reader.read()) == [1, 2]

    argv = [sys.executable, "-c", HOLDER, str(places.state), str(places.root)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"True\n"
            asyncio.run(scenario(holder))
        finally:
            holder.kill()


def test_nobody(places: Places) -> None:
    """When nobody receives there is nobody to connect to."""

    async def scenario() -> None:
        async with Inbox(places):
            pass
        with pytest.raises(ConnectionBroken):
            await forward(places, envelope())

    asyncio.run(scenario())


def test_wait_for(places: Places) -> None:
    """An event is waited for whether it came before or comes after, with a limit."""

    async def scenario() -> None:
        async with Inbox(places) as inbox:
            reader = inbox.reader()

            async def found(pid: int, limit_s: float) -> bool:
                return await inbox.wait_for(
                    reader, lambda record: pids([record]) == [pid], limit_s=limit_s
                )

            await forward(places, envelope(1), envelope(2))
            assert await found(2, LIMIT_S)
            waiting = asyncio.ensure_future(found(3, LIMIT_S))
            await forward(places, envelope(3))
            assert await waiting
            before = time.monotonic()
            assert not await found(4, 0.01)
            assert time.monotonic() - before < LIMIT_S

    asyncio.run(scenario())


def test_socket_cannot_be_made(places: Places) -> None:
    """An inbox that cannot bind its socket is an error, and gives up the lock."""

    async def scenario() -> None:
        os.makedirs(places.events_socket)
        with pytest.raises(OSError, match="directory"):
            async with Inbox(places):
                pass
        os.rmdir(places.events_socket)
        async with Inbox(places) as inbox:
            assert inbox.is_receiving

    asyncio.run(scenario())


def record(pid: int) -> Record:
    """Return an event to say."""
    it = envelope(pid)
    return Record(5, it.namespace, it.topic, it.event.type_url, bytes(it.event.value))


def test_say(places: Places) -> None:
    """What we say is in the log, in our turn and in another's; once."""

    async def scenario() -> None:
        async with Inbox(places) as first, Inbox(places) as second:
            reader = second.reader()
            await first.say(record(1))
            await second.say(record(2))
            assert pids(reader.read()) == [1, 2]
            # Between two turns it waits for its own.
            await first.__aexit__(None, None, None)
            await second.say(record(3))
            assert second.is_receiving
            assert pids(reader.read()) == [3]

    asyncio.run(scenario())


def test_say_to_one_that_takes_nothing(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that refuses, or is silent, is tried for a limited time."""
    monkeypatch.setattr(inbox_module, "_SAY_LIMIT_S", 0.2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def scenario() -> None:
        async with Inbox(places) as first, Inbox(places) as second:
            monkeypatch.setattr(Writer, "append", full)
            with pytest.raises(Unavailable, match="does not answer"):
                await second.say(record(1))
            with pytest.raises(OSError, match="No space left"):
                await first.say(record(1))
        monkeypatch.undo()
        monkeypatch.setattr(inbox_module, "_SAY_LIMIT_S", 0.2)
        writer = Writer.maybe_open(places.event_log)
        assert writer is not None  # somebody's turn, who does not even listen
        async with Inbox(places) as second:
            with pytest.raises(Unavailable, match="does not answer"):
                await second.say(record(1))
        writer.close()
        assert Reader(places.event_log).read() == []

    asyncio.run(scenario())
