"""The fake daemon that users test with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dunnage.api.forward_pb2 import Envelope, ForwardRequest
from dunnage.api.services import EVENTS, TASK_V2
from dunnage.api.task_v2_pb2 import ShutdownRequest
from dunnage.errors import ConnectionBroken, ConnectionClosed, Internal, Unimplemented
from dunnage.testing.daemon import (
    HANGING,
    LOST,
    TRUNCATED,
    End,
    FakeDaemon,
    refused,
    taken,
)
from dunnage.ttrpc.aio.client import Client

LIMIT_S = 5.0


async def forward(client: Client, topic: str) -> None:
    """Say an event of which only the topic matters."""
    request = ForwardRequest(envelope=Envelope(topic=topic))
    await client.call(EVENTS.forward, request, timeout_s=LIMIT_S)


def topics(envelopes: list[bytes]) -> list[str]:
    """Return the topics of envelopes."""
    return [Envelope.FromString(data).topic for data in envelopes]


def test_each_answer(tmp_path: Path) -> None:
    """It does with each Forward what the script says, and knows how each ended."""

    async def main() -> None:
        async with FakeDaemon(str(tmp_path / "d")) as daemon:
            daemon.script = [
                taken(late_s=0.01),
                refused(Internal("no")),
                LOST,
                TRUNCATED,
            ]
            client = await Client.connect(f"unix://{daemon.path}")
            await forward(client, "/a")
            with pytest.raises(Internal, match="no"):
                await forward(client, "/b")
            for _ in range(2):
                with pytest.raises((ConnectionClosed, ConnectionBroken)):
                    await forward(client, "/b")
                client = await Client.connect(f"unix://{daemon.path}")
            await forward(client, "/b")
            with pytest.raises(Unimplemented):
                await client.call(TASK_V2.shutdown, ShutdownRequest())
            client.close()
            lost = [End.UNANSWERED] * 2
            assert [End.TAKEN, End.REFUSED, *lost, End.TAKEN] == [
                heard.end for heard in daemon.heard
            ]
            assert ["/a", "/b"] == topics(daemon.stream())
            assert [] == daemon.inexcusable()
            assert 3 == daemon.connections

    asyncio.run(main())


@pytest.mark.parametrize("hangs", [True, False])
def test_an_inexcusable_repeat(tmp_path: Path, hangs: bool) -> None:
    """What was taken, or is still open, must not come again; the stream shows it."""

    async def main() -> None:
        async with FakeDaemon(str(tmp_path / "d")) as daemon:
            clients = [await Client.connect(f"unix://{daemon.path}") for _ in "ab"]
            if hangs:
                daemon.script = [HANGING]
            first = asyncio.create_task(forward(clients[0], "/a"))
            async with asyncio.timeout(LIMIT_S):
                while not daemon.heard:
                    await asyncio.sleep(0)
            await forward(clients[1], "/a")
            daemon.wake()
            await first
            assert [False, True] == [not it.is_excused for it in daemon.heard]
            assert ["/a", "/a"] == topics(daemon.stream())
            assert daemon.heard[1:] == daemon.inexcusable()
            for client in clients:
                client.close()

    asyncio.run(main())


def test_a_new_one_at_the_same_path(tmp_path: Path) -> None:
    """Stopped, it leaves its socket's file and answers nobody; then it starts anew."""

    async def main() -> None:
        async with FakeDaemon(str(tmp_path / "d")) as daemon:
            client = await Client.connect(f"unix://{daemon.path}")
            daemon.script = [HANGING]
            call = asyncio.create_task(forward(client, "/a"))
            async with asyncio.timeout(LIMIT_S):
                while not daemon.heard:
                    await asyncio.sleep(0)
            daemon.stop()
            with pytest.raises((ConnectionClosed, ConnectionBroken)):
                await call
            with pytest.raises(ConnectionBroken):
                await Client.connect(f"unix://{daemon.path}")
            daemon.start()
            client = await Client.connect(f"unix://{daemon.path}")
            await forward(client, "/a")
            client.close()
            assert [] == daemon.inexcusable()

    asyncio.run(main())
