"""Whether a shim is there, by its process and by its socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.manager.fake_shim import FakeShim

from dunnage.bootstrap import bundle as files
from dunnage.errors import ConnectionBroken
from dunnage.host.procs.identity import Identity
from dunnage.manager import bundles
from dunnage.manager.client import Task
from dunnage.manager.presence import (
    Presence,
    gone,
    kill_noted,
    note,
    noted,
    presence,
    was_started,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dunnage.manager.bundles import Bundle
    from dunnage.manager.places import Places


@pytest.fixture
def bundle(places: Places) -> Bundle:
    """A bundle of a shim."""
    return bundles.create(places, "c", b"{}")


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the shim's."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def write_note(bundle: Bundle, identity: Identity) -> None:
    """Note a shim's process, without a proof."""
    files.write(str(bundle.path), files.SHIM, json.dumps(identity._asdict()))


def test_what_is_proven_is_noted(places: Places, bundle: Bundle) -> None:
    """proven-shim: the process at the other end is noted, with its start and boot."""

    async def scenario() -> None:
        fake = FakeShim(bundle, os.getpid())
        task = await Task.connect(bundle, places.namespace)
        await note(task)
        assert noted(bundle) == Identity.mine()
        await fake.close()
        with pytest.raises(ConnectionBroken):
            await note(task)
        task.close()

    asyncio.run(scenario())


def test_what_is_not_proven_is_not_noted(
    places: Places, bundle: Bundle, process: subprocess.Popen[bytes]
) -> None:
    """proven-shim: a living process that is not at the other end is no shim."""

    async def scenario() -> None:
        for pid in (process.pid, 0, 1 << 22):
            fake = FakeShim(bundle, pid)
            task = await Task.connect(bundle, places.namespace)
            await note(task)
            assert noted(bundle) is None
            task.close()
            await fake.close()
            (bundle.path / "sock").unlink()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", '{"pid": 5, "started": 1}'),
        '{"pid": "5", "started": 1, "boot_id": "x"}',
        '{"pid": true, "started": 1, "boot_id": "x"}',
    ],
)
def test_a_note_that_makes_no_sense(bundle: Bundle, text: str) -> None:
    """It counts as none, and nobody is killed for it."""
    (bundle.path / files.SHIM).write_text(text)
    assert noted(bundle) is None
    kill_noted(bundle)


def test_presence(
    places: Places, bundle: Bundle, process: subprocess.Popen[bytes]
) -> None:
    """Without a note the socket tells; with one, the process, and then the socket."""

    async def scenario() -> None:
        async def now() -> Presence:
            return await presence(bundle, places.namespace)

        assert not was_started(bundle)
        assert await now() is Presence.GONE
        fake = FakeShim(bundle, process.pid)
        assert await now() is Presence.SERVING
        write_note(bundle, Identity.of(process.pid))
        assert await now() is Presence.SERVING
        await fake.close()
        assert await now() is Presence.LEAVING
        (bundle.path / "sock").unlink()
        assert await now() is Presence.LEAVING
        # In a pod: a successor listens where it did.
        successor = FakeShim(bundle, os.getpid())
        assert await now() is Presence.SERVING
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie is gone
        assert await now() is Presence.GONE
        await successor.close()

    asyncio.run(scenario())


def test_gone(places: Places, bundle: Bundle, process: subprocess.Popen[bytes]) -> None:
    """One that leaves is waited for, up to the limit; one that serves, a moment."""

    async def scenario() -> None:
        write_note(bundle, Identity.of(process.pid))
        loop = asyncio.get_running_loop()
        assert not await gone(bundle, places.namespace, limit_s=0.0)
        begun = loop.time()
        assert not await gone(bundle, places.namespace, limit_s=0.1)
        assert loop.time() - begun >= 0.1
        fake = FakeShim(bundle, process.pid)
        begun = loop.time()
        assert not await gone(bundle, places.namespace, limit_s=20.0)
        assert loop.time() - begun < 10
        await fake.close()
        waiting = loop.create_task(gone(bundle, places.namespace, limit_s=20.0))
        await asyncio.sleep(0)
        process.kill()
        assert await waiting

    asyncio.run(scenario())


def test_who_got_its_pid_is_not_killed(
    bundle: Bundle, process: subprocess.Popen[bytes]
) -> None:
    """By the note only the very process is killed that was noted."""
    mine = Identity.of(process.pid)
    for other in (
        mine._replace(started=mine.started - 1),
        mine._replace(boot_id="another"),
        mine._replace(pid=-1),
        mine._replace(pid=1 << 40),
    ):
        write_note(bundle, other)
        kill_noted(bundle)
        assert process.poll() is None
    write_note(bundle, mine)
    kill_noted(bundle)
    assert process.wait(10) == -signal.SIGKILL
    kill_noted(bundle)
