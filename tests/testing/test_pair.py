"""The pair that users test with."""

from __future__ import annotations

import pytest
from tests.ttrpc.notes import ECHO, Note, run

from dunnage.errors import ConnectionClosed
from dunnage.testing.pair import connect_to, connected_pair
from dunnage.ttrpc.aio.server import Context, Server


async def echo(request: Note, _: Context) -> Note:
    """Answer with what was asked."""
    return request


def test_a_call_without_a_name_in_the_file_system() -> None:
    """A pair serves calls, and both ends are closed when it is left."""

    async def main() -> None:
        server = Server()
        server.register(ECHO, echo)
        async with connected_pair(server) as client:
            assert Note("x") == await client.call(ECHO, Note("x"))
            assert server.connections == 1
        assert server.connections == 0
        with pytest.raises(ConnectionClosed):
            await client.call(ECHO, Note("x"))

    run(main())


def test_several_clients_of_one_server() -> None:
    """A server may have more clients than one."""

    async def main() -> None:
        server = Server()
        server.register(ECHO, echo)
        async with connected_pair(server) as first:
            second = connect_to(server)
            assert server.connections == 2
            second.close()
            assert Note("x") == await first.call(ECHO, Note("x"))

    run(main())
