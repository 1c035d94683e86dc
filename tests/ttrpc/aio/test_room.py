"""Who has to leave a server, and what all connections may hold together."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing

import pytest
from tests.ttrpc.notes import ECHO, Note, request_frame, run, wait_until

from dunnage.testing.pair import connected_pair
from dunnage.ttrpc.aio.room import UNREAD_LIMIT_BYTES, Room
from dunnage.ttrpc.aio.server import Context, Peer, Server
from dunnage.ttrpc.frames import MAX_DATA_BYTES


class Someone:
    """A connection that only knows whether it was closed."""

    peer = Peer()

    def __init__(self, room: Room, *, speaks: bool = False) -> None:
        self._room = room
        self.is_closed = False
        room.enter(self)
        if speaks:
            room.spoke(self)

    def close(self) -> None:
        """Leave."""
        self.is_closed = True
        self._room.leave(self)


class TestRoom:
    """The rule alone, with a limit of ten bytes."""

    def test_the_limit_is_of_all_together(self) -> None:
        """Ten bytes may be held, by one or by many; what was taken is not held."""
        room = Room(10)
        guests = [Someone(room) for _ in range(3)]
        for _ in range(5):
            for guest, count in zip(guests, (4, 4, 2), strict=True):
                room.hold(guest, count)
            room.hold(guests[0], 0)
        guests[1].close()
        room.hold(guests[0], 8)
        assert [False, True, False] == [guest.is_closed for guest in guests]

    def test_who_said_nothing_goes_first(self) -> None:
        """Who has spoken stays, though it holds more."""
        room = Room(10)
        speaker, silent, empty = (
            Someone(room, speaks=True),
            Someone(room),
            Someone(room),
        )
        room.hold(silent, 1)
        room.hold(speaker, 10)
        assert silent.is_closed
        assert not speaker.is_closed
        assert not empty.is_closed

    def test_then_who_holds_most(self) -> None:
        """Among those who have spoken size decides."""
        room = Room(10)
        big, small = Someone(room, speaks=True), Someone(room, speaks=True)
        room.hold(big, 9)
        room.hold(small, 2)
        assert big.is_closed
        assert not small.is_closed
        room.hold(small, 11)
        assert small.is_closed

    def test_then_who_has_rested_longest(self) -> None:
        """Of those who hold the same, the one that sent nothing for longest goes."""
        room = Room(10)
        first, second, third = (Someone(room, speaks=True) for _ in range(3))
        for guest in (first, second, first, third):
            room.hold(guest, 4)
        assert [False, True, False] == [g.is_closed for g in (first, second, third)]


def test_a_server_holds_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """bounded-unread: half frames on many connections; who speaks is served."""
    half = request_frame(1, ECHO.service, ECHO.name, bytes(MAX_DATA_BYTES - 100))[:-1]
    fit = UNREAD_LIMIT_BYTES // len(half)

    async def echo(request: Note, _: Context) -> Note:
        return request

    async def main() -> None:
        server = Server()
        server.register(ECHO, echo)
        with ExitStack() as undo:
            async with connected_pair(server) as client:
                assert Note("x") == await client.call(ECHO, Note("x"))
                long = Note("y" * (1 << 20))
                for number in range(fit + 3):
                    ours, theirs = socket.socketpair()
                    undo.enter_context(closing(ours))
                    ours.setblocking(False)
                    server.serve(theirs)
                    left = memoryview(half)
                    while left:
                        try:
                            left = left[ours.send(left) :]
                        except BlockingIOError:
                            assert Note("x") == await client.call(ECHO, Note("x"))
                    await wait_until(lambda: _held(server) % len(half) == 0)
                    assert server.connections == 1 + min(number + 1, fit)
                assert long == await client.call(ECHO, long)
                assert _held(server) <= UNREAD_LIMIT_BYTES

    run(main())
    assert "too much is held of messages that are not whole" in caplog.text


def _held(server: Server) -> int:
    held = sum(session._connection.unread_bytes for session in server._sessions)
    assert held == server._room._unread_bytes
    return held
