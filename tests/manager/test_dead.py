"""Who speaks for a shim, and when; with real shims in tests/cli/test_dead.py."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.manager.fake_shim import FakeShim

from dunnage.api.events_pb2 import TaskDelete, TaskExit
from dunnage.api.task_v2_pb2 import DeleteResponse
from dunnage.bootstrap import bundle as files
from dunnage.errors import ConnectionBroken, DunnageError, FailedPrecondition
from dunnage.host.procs.identity import Identity
from dunnage.manager import bundles, dead, life
from dunnage.manager.client import Exit
from dunnage.manager.dead import bury_dead, reload
from dunnage.manager.eventlog import Reader
from dunnage.manager.inbox import Inbox
from dunnage.manager.launch import Shim

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dunnage.manager.bundles import Bundle
    from dunnage.manager.places import Places

KNOWN = Exit(7, 3, 5_000_000_000)


@pytest.fixture
def called(tmp_path: Path) -> Path:
    """A file that is there once the shim's `delete` was called."""
    return tmp_path / "called"


@pytest.fixture
def shim(places: Places, tmp_path: Path, called: Path) -> Shim:
    """A binary whose `delete` knows what became of init."""
    answer = DeleteResponse(pid=7, exit_status=3)
    answer.exited_at.FromNanoseconds(5_000_000_000)
    (tmp_path / "answer").write_bytes(answer.SerializeToString())
    binary = tmp_path / "shim"
    binary.write_text(f"#!/bin/sh\ntouch {called}; exec cat {tmp_path}/answer\n")
    binary.chmod(0o755)
    return Shim(binary, places)


@pytest.fixture
def bundle(places: Places, shim: Shim) -> Bundle:
    """A bundle of a container that was created."""
    bundle = bundles.create(places, "c", b"{}")
    (bundle.path / files.SHIM_BINARY_PATH).write_text(str(shim.binary))
    (bundle.path / files.INIT_PID).write_text("7")
    return bundle


@pytest.fixture
def leaving(bundle: Bundle) -> Iterator[subprocess.Popen[bytes]]:
    """The process of the shim: it lives, and does not listen."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        note = json.dumps(Identity.of(process.pid)._asdict())
        (bundle.path / files.SHIM).write_text(note)
        yield process
        process.kill()


def said(places: Places) -> list[tuple[str, int]]:
    """Return topic and status of each event of the log."""
    found = []
    for record in Reader(places.event_log).read():
        message = life._message(record)
        assert isinstance(message, TaskExit | TaskDelete)
        found.append((record.topic.removeprefix("/tasks/"), message.exit_status))
    return found


def test_for_a_dead_one(places: Places, shim: Shim, bundle: Bundle) -> None:
    """delete-then-speak: exit and delete are said as `delete` told; nothing stays."""

    async def scenario() -> None:
        async with Inbox(places) as inbox:
            assert await bury_dead(shim, bundle, inbox) == KNOWN
            # buried-once: whoever comes later is told what was said.
            assert await bury_dead(shim, bundle, inbox) == KNOWN

    asyncio.run(scenario())
    assert said(places) == [("exit", 3), ("delete", 3)]
    assert bundles.list_all(places) == []


def test_beside_another_manager(places: Places, shim: Shim, bundle: Bundle) -> None:
    """buried-once: those who come at once all learn the exit, and one says it."""

    async def scenario() -> None:
        async with Inbox(places) as inbox, Inbox(places) as other:
            burials = (bury_dead(shim, bundle, it) for it in (inbox, other, inbox))
            assert await asyncio.gather(*burials) == [KNOWN] * 3

    asyncio.run(scenario())
    assert said(places) == [("exit", 3), ("delete", 3)]


def test_for_what_never_was(places: Places, shim: Shim, bundle: Bundle) -> None:
    """Of a container that no runtime finished nothing is said; it is cleaned up."""
    (bundle.path / files.INIT_PID).unlink()

    async def scenario() -> None:
        async with Inbox(places) as inbox:
            await bury_dead(shim, bundle, inbox)
            with pytest.raises(ConnectionBroken):
                await bury_dead(shim, bundle, inbox)

    asyncio.run(scenario())
    assert said(places) == []
    assert bundles.list_all(places) == []


def test_a_delete_that_fails(places: Places, shim: Shim, bundle: Bundle) -> None:
    """delete-then-speak: then nothing is said, and the task stays."""
    shim.binary.write_text("#!/bin/sh\nexit 1\n")

    async def scenario() -> None:
        async with Inbox(places) as inbox:
            with pytest.raises(DunnageError, match="failed to delete shim"):
                await bury_dead(shim, bundle, inbox)

    asyncio.run(scenario())
    assert said(places) == []
    assert bundles.list_all(places) == [bundle]


def test_one_that_leaves_says_its_exit_itself(
    places: Places,
    shim: Shim,
    bundle: Bundle,
    leaving: subprocess.Popen[bytes],
    called: Path,
) -> None:
    """dead-is-gone: until its process is gone, it is received and not spoken for."""
    its_own = life.exit_event(places, "c", Exit(7, 6, 1))

    async def scenario() -> None:
        async with Inbox(places) as inbox, Inbox(places) as sender:
            burying = asyncio.create_task(bury_dead(shim, bundle, inbox))
            await sender.say(its_own)
            # Enough for a burial that would not wait.
            done, _ = await asyncio.wait([burying], timeout=0.3)
            assert not done
            assert not called.exists()
            leaving.kill()
            assert await burying == Exit(7, 6, 1)

    asyncio.run(scenario())
    assert said(places) == [("exit", 6), ("delete", 6)]
    assert bundles.list_all(places) == []


@pytest.mark.usefixtures("leaving")
def test_one_that_does_not_go(
    places: Places,
    shim: Shim,
    bundle: Bundle,
    called: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """dead-is-gone: after a limit it is left to the next command, with a hint."""
    monkeypatch.setattr(dead, "_LEAVING_LIMIT_S", 0.1)

    async def scenario() -> None:
        async with Inbox(places) as inbox:
            with pytest.raises(FailedPrecondition, match="dunnage rm -f c"):
                await bury_dead(shim, bundle, inbox)

    asyncio.run(scenario())
    assert said(places) == []
    assert not called.exists()
    assert bundles.list_all(places) == [bundle]


def test_one_that_is_forced(
    places: Places,
    shim: Shim,
    bundle: Bundle,
    leaving: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By force one that does not go is killed, and then spoken for."""
    monkeypatch.setattr(dead, "_FORCED_LIMIT_S", 0.5)

    async def scenario() -> None:
        async with Inbox(places) as inbox:
            assert await bury_dead(shim, bundle, inbox, force=True) == KNOWN

    asyncio.run(scenario())
    assert leaving.wait(0) == -9
    assert said(places) == [("exit", 3), ("delete", 3)]


@pytest.mark.parametrize("force", [False, True])
def test_one_that_serves(
    places: Places, shim: Shim, bundle: Bundle, called: Path, force: bool
) -> None:
    """It is refused, also by force: it can be asked."""

    async def scenario() -> None:
        fake = FakeShim(bundle, os.getpid())
        async with Inbox(places) as inbox:
            with pytest.raises(FailedPrecondition, match="is not gone"):
                await bury_dead(shim, bundle, inbox, force=force)
        await fake.close()

    asyncio.run(scenario())
    assert not called.exists()
    assert bundles.list_all(places) == [bundle]


def test_one_that_was_not_started(places: Places, shim: Shim, bundle: Bundle) -> None:
    """What is half made is nobody's to bury."""
    (bundle.path / files.SHIM_BINARY_PATH).unlink()

    async def scenario() -> None:
        async with Inbox(places) as inbox:
            with pytest.raises(FailedPrecondition, match="no shim yet"):
                await bury_dead(shim, bundle, inbox)
        assert await reload(places) == {}

    asyncio.run(scenario())
    assert bundles.list_all(places) == [bundle]


def test_who_comes_by(
    places: Places,
    bundle: Bundle,
    leaving: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that leaves is received for a moment, and left; what is gone is buried."""
    monkeypatch.setattr(dead, "_PASSING_LIMIT_S", 0.3)
    its_own = life.exit_event(places, "c", Exit(7, 6, 1))

    async def scenario() -> None:
        passing = asyncio.create_task(reload(places))
        async with asyncio.timeout(10):
            while not os.path.exists(places.events_socket):
                await asyncio.sleep(0)
        async with Inbox(places) as sender:
            await sender.say(its_own)
        assert await passing == {}
        assert bundles.list_all(places) == [bundle]
        async with Inbox(places) as inbox:
            assert await reload(places, inbox=inbox) == {}
        leaving.kill()
        leaving.wait()
        assert await reload(places) == {"c": Exit(7, 6, 1)}

    asyncio.run(scenario())
    assert said(places) == [("exit", 6), ("delete", 6)]
    assert bundles.list_all(places) == []
