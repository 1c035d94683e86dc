"""A task's end with shims that misbehave; whole lives are in tests/cli."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.manager.fake_shim import FakeShim

from dunnage.api.events_pb2 import TaskCreate
from dunnage.api.topics import TOPICS
from dunnage.bootstrap import bundle as files
from dunnage.bootstrap import endpoint
from dunnage.errors import NotFound, Unknown
from dunnage.host.procs.identity import Identity
from dunnage.manager import bundles, burial
from dunnage.manager.burial import bury
from dunnage.manager.client import Exit, Task
from dunnage.manager.eventlog import Reader, Record
from dunnage.manager.inbox import Inbox
from dunnage.manager.launch import Shim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dunnage.manager.bundles import Bundle
    from dunnage.manager.places import Places


@pytest.fixture
def bundle(places: Places) -> Bundle:
    """A bundle to bury."""
    return bundles.create(places, "c", b"{}")


@pytest.fixture
def shim(places: Places) -> Shim:
    """A binary whose `delete` knows nothing."""
    return Shim(Path("/bin/false"), places)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the shim's."""
    argv = [sys.executable, "-c", "import signal; signal.pause()"]
    with subprocess.Popen(argv) as process:
        yield process
        process.kill()


async def buried(shim: Shim, bundle: Bundle, task: Task | None, **how: bool) -> Exit:
    """Bury, with somebody to receive."""
    async with Inbox(shim.places) as inbox:
        return await bury(shim, bundle, task, inbox, **how)


def test_order(
    places: Places, bundle: Bundle, shim: Shim, process: subprocess.Popen[bytes]
) -> None:
    """Delete, Shutdown, and the bundle only after the shim is gone."""

    async def scenario() -> None:
        fake = FakeShim(bundle, process.pid)
        fake.on_shutdown = process.terminate
        task = await Task.connect(bundle, places.namespace)
        assert await buried(shim, bundle, task) == Exit(7, 3, None)
        assert fake.calls == ["delete", "shutdown"]
        assert process.wait() == -signal.SIGTERM
        assert bundles.list_all(places) == []
        await fake.close()

    asyncio.run(scenario())


def test_refusal(places: Places, bundle: Bundle, shim: Shim) -> None:
    """A task that may not be removed stays, and so does its shim."""

    async def scenario() -> None:
        fake = FakeShim(
            bundle, os.getpid(), refusal=Unknown("cannot delete a running process")
        )
        task = await Task.connect(bundle, places.namespace)
        with pytest.raises(Unknown, match="running process"):
            await buried(shim, bundle, task)
        assert fake.calls == ["delete"]
        assert bundles.list_all(places) == [bundle]
        await fake.close()

    asyncio.run(scenario())


# A shim's process that hears Shutdown and stays; perhaps it begins to leave.
STUBBORN = """
import asyncio, os, socket, sys
from dunnage.api import task_v2_pb2 as messages
from dunnage.api.services import TASK_V2
from dunnage.descriptors import Empty
from dunnage.errors import NotFound
from dunnage.ttrpc.aio.server import Server

path, how = sys.argv[1:]

async def connect(*_):
    return messages.ConnectResponse(shim_pid=os.getpid())

async def delete(*_):
    raise NotFound("gone already")

async def shutdown(*_):
    if how == "leaving":
        os.unlink(path)
        server.stop_listening()
    return Empty()

async def main():
    global server
    server = Server()
    for method, handler in (
        (TASK_V2.connect, connect), (TASK_V2.delete, delete),
        (TASK_V2.shutdown, shutdown),
    ):
        server.register(method, handler)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server.listen_on(listener)
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("how", "force", "drop_unread", "is_killed"),
    [
        ("serving", False, False, False),
        ("serving", True, False, True),
        ("leaving", True, False, False),
        ("leaving", True, True, True),
    ],
)
def test_a_shim_that_stays(
    places: Places,
    bundle: Bundle,
    shim: Shim,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    force: bool,
    drop_unread: bool,
    is_killed: bool,
) -> None:
    """By force one is killed that still serves; one that leaves, for what it holds."""
    monkeypatch.setattr(burial, "_LEAVE_LIMIT_S", 0.2)
    path = str(bundle.path / "sock")

    async def scenario() -> None:
        endpoint.write(str(bundle.path), endpoint.Endpoint(f"unix://{path}"))
        task = await Task.connect(bundle, places.namespace)
        await buried(shim, bundle, task, force=force, drop_unread=drop_unread)

    argv = [sys.executable, "-c", STUBBORN, path, how]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            asyncio.run(scenario())
            assert bundles.list_all(places) == []
            assert (process.poll() is not None) == is_killed
        finally:
            process.kill()


def test_an_unproven_shim_is_not_killed(
    places: Places,
    bundle: Bundle,
    shim: Shim,
    process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """proven-shim: by force everything is tried, but nobody is killed for his pid."""
    monkeypatch.setattr(burial, "_LEAVE_LIMIT_S", 0.1)

    async def scenario() -> None:
        fake = FakeShim(bundle, process.pid, refusal=Unknown("no"))
        task = await Task.connect(bundle, places.namespace)
        exit_ = await buried(shim, bundle, task, force=True, drop_unread=True)
        assert exit_ == Exit(0, 255, None)
        assert fake.calls == ["kill 9", "delete", "shutdown"]
        assert process.poll() is None
        assert bundles.list_all(places) == []
        await fake.close()

    asyncio.run(scenario())
    assert "nothing proves which process it is" in caplog.text


def test_shared_shim(
    places: Places,
    bundle: Bundle,
    shim: Shim,
    process: subprocess.Popen[bytes],
) -> None:
    """A shim that another task has too is neither waited for nor killed."""

    async def scenario() -> None:
        fake = FakeShim(bundle, process.pid, refusal=NotFound("gone already"))
        other = bundles.create(places, "other", b"{}")
        found = endpoint.read(str(bundle.path))
        assert found is not None
        endpoint.write(str(other.path), found)
        task = await Task.connect(bundle, places.namespace)
        async with asyncio.timeout(burial._LEAVE_LIMIT_S / 2):
            await buried(shim, bundle, task, force=True)
        assert process.poll() is None
        assert bundles.list_all(places) == [other]
        await fake.close()

    asyncio.run(scenario())


def test_a_shim_that_another_joins(
    places: Places, bundle: Bundle, shim: Shim, process: subprocess.Popen[bytes]
) -> None:
    """One that is joined while it is asked to leave is not killed, even if forced."""

    async def scenario() -> None:
        fake = FakeShim(bundle, process.pid)
        found = endpoint.read(str(bundle.path))
        assert found
        other = bundles.create(places, "other", b"{}")  # its start is under way

        def joined() -> None:
            endpoint.write(str(other.path), found)

        def in_a_moment() -> None:
            asyncio.get_running_loop().call_later(0.1, joined)

        fake.on_shutdown = in_a_moment
        task = await Task.connect(bundle, places.namespace)
        await buried(shim, bundle, task, force=True)
        assert process.poll() is None
        assert bundles.list_all(places) == [other]
        await fake.close()

    asyncio.run(scenario())


def test_one_that_dies_of_shutdown(
    places: Places, bundle: Bundle, process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """dead-is-gone: its socket goes before it does; then what it has not said is."""
    binary = tmp_path / "shim"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    shim = Shim(binary, places)
    identity = Identity.of(process.pid)
    (bundle.path / files.SHIM).write_text(json.dumps(identity._asdict()))
    name = TaskCreate.DESCRIPTOR.full_name
    value = TaskCreate(container_id="c").SerializeToString()

    async def scenario() -> None:
        fake = FakeShim(bundle, process.pid)
        other = bundles.create(places, "other", b"{}")  # of the same pod: nobody waits
        found = endpoint.read(str(bundle.path))
        assert found is not None
        endpoint.write(str(other.path), found)

        def die() -> None:
            fake.withdraw()
            asyncio.get_running_loop().call_later(0.3, process.kill)

        fake.on_shutdown = die
        async with Inbox(places) as inbox:
            now_ns = time.time_ns()
            topic = TOPICS[name]
            await inbox.say(Record(now_ns, places.namespace, topic, name, value))
            task = await Task.connect(bundle, places.namespace)
            exit_ = await bury(shim, bundle, task, inbox)
        assert exit_[:2] == (7, 3)
        await fake.close()

    asyncio.run(scenario())
    topics = [record.topic for record in Reader(places.event_log).read()]
    assert topics == ["/tasks/create", "/tasks/exit", "/tasks/delete"]


def test_without_a_shim(places: Places, bundle: Bundle, shim: Shim) -> None:
    """Where there is no shim any more, the binary's word is taken."""
    assert asyncio.run(buried(shim, bundle, None)) == Exit(0, 255, None)
    assert bundles.list_all(places) == []
