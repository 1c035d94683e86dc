"""What the launcher makes of a server's answers, sense and nonsense."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
from collections.abc import Callable

import pytest

from . import expected
from .scene import (
    ARGV,
    COLD,
    LIMIT_S,
    WELL,
    Behaviour,
    Heard,
    Scene,
    answers,
    exactly,
    hear,
    until,
)

PROMISE = struct.pack("<I", 0xFFFFFFFF)


@pytest.mark.parametrize("piece", [1, 1 << 30])
def test_an_answer_is_passed_on(scene: Scene, piece: int) -> None:
    """Each stream and the status are the server's, however it sends them."""
    with scene.server(answers(piece=piece)) as heard:
        done = scene.run(*ARGV)
    assert (7, b"out", b"err") == (done.returncode, done.stdout, done.stderr)
    assert [b"GK"] == [each.words for each in heard]
    assert not scene.calls("cold")


def test_a_long_answer_is_passed_on(scene: Scene) -> None:
    """It is longer than any buffer on its way."""
    out, err = bytes(range(256)) * 20_000, b"\xff\0" * 500_000
    with scene.server(answers(expected.answer(0, out, err), piece=77_777)):
        done = scene.run(*ARGV)
    assert (0, out, err) == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("status", [0, 1, 255])
def test_the_status_is_passed_on(scene: Scene, status: int) -> None:
    """Whatever a process may exit with."""
    with scene.server(answers(expected.answer(status))):
        assert scene.run(*ARGV).returncode == status


def before_go(reply: bytes) -> Behaviour:
    """Return a server that says this instead of being ready, and hangs up."""

    def behave(connection: socket.socket, heard: Heard) -> None:
        hear(connection, heard)
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_WR)
        heard.words = connection.recv(100)

    return behave


def after_go(reply: bytes) -> Behaviour:
    """Return a server that is ready, then says this and hangs up."""

    def behave(connection: socket.socket, heard: Heard) -> None:
        hear(connection, heard)
        connection.sendall(b"R")
        heard.words = exactly(connection, 1)
        connection.sendall(reply)

    return behave


def deaf(connection: socket.socket, heard: Heard) -> None:
    """Hang up without listening."""


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (deaf, b""),
        (before_go(b""), b""),
        (before_go(b"N"), b""),
        (before_go(b"\0garbage" * 100), b""),
        (before_go(WELL), b""),
        (after_go(b""), b"G"),
        (after_go(b"N"), b"G"),
        (after_go(b"A"), b"G"),
        (after_go(b"\xffgarbage" * 1000), b"G"),
        (after_go(WELL[:-1]), b"G"),
        (after_go(WELL[:7]), b"G"),
        (after_go(WELL[:5] + PROMISE + b"x" * 100_000), b"G"),
        (after_go(WELL[:5] + struct.pack("<I", 1 << 26) + b"x"), b"G"),
    ],
)
def test_nonsense_leads_to_cold(scene: Scene, behave: Behaviour, words: bytes) -> None:
    """We do it ourselves, with the same stdin, and nothing of the other is written."""
    options = bytes(range(256)) * 300
    with scene.server(behave) as heard:
        done = scene.run(*ARGV, input=options)
    assert (COLD, b"cold", b"") == (done.returncode, done.stdout, done.stderr)
    assert options.hex() == scene.cold()["stdin"]
    assert [words] == [each.words for each in heard]


def silent(connection: socket.socket, heard: Heard) -> None:
    """Read, and say nothing until the other hangs up."""
    hear(connection, heard)
    heard.words = connection.recv(100)


def stopped(connection: socket.socket, heard: Heard) -> None:
    """Read nothing until the other hangs up."""
    poll = select.poll()
    poll.register(connection, 0)  # a hang-up is told unasked
    assert poll.poll(LIMIT_S * 1000)


@pytest.mark.parametrize("behave", [silent, stopped])
def test_silence_is_borne_for_a_while(hasty: Scene, behave: Behaviour) -> None:
    """A server that says nothing, or reads nothing, is given up, and told nothing."""
    options = bytes(1 << 20)
    with hasty.server(behave) as heard:
        done = hasty.run(*ARGV, input=options)
    assert (COLD, b"cold") == (done.returncode, done.stdout)
    assert options.hex() == hasty.cold()["stdin"]
    assert not heard[0].words


def test_after_go_silence_is_borne(hasty: Scene) -> None:
    """Who was told to go on is waited for beyond any limit."""
    asked: list[subprocess.Popen[bytes]] = []

    def slow(connection: socket.socket, heard: Heard) -> None:
        hear(connection, heard)
        connection.sendall(b"R")
        heard.words = exactly(connection, 1)
        # Longer than every limit of this launcher.
        with pytest.raises(subprocess.TimeoutExpired):
            asked[0].wait(0.5)
        connection.sendall(WELL)

    with (
        hasty.server(slow),
        subprocess.Popen(
            [hasty.launcher, *ARGV], env=hasty.env, stdin=-3, stdout=-1, stderr=-1
        ) as launcher,
    ):
        asked.append(launcher)
        said = launcher.communicate(timeout=20)
    assert (7, (b"out", b"err")) == (launcher.returncode, said)


def test_an_answer_that_cannot_be_passed_on_is_not_confirmed(scene: Scene) -> None:
    """A shim whose address nobody heard must know that."""
    with (
        open("/dev/full", "wb") as full,
        scene.server(answers(expected.answer(0, b"out"))) as heard,
    ):
        done = scene.run(*ARGV, stdout=full, stderr=subprocess.DEVNULL)
    assert done.returncode == 1
    assert [b"G"] == [each.words for each in heard]
    assert not scene.calls("cold")


@pytest.mark.parametrize("make", [answers, lambda: silent])
def test_a_killed_launcher_hangs_up(
    scene: Scene, make: Callable[[], Behaviour]
) -> None:
    """The server's child sees the end of its caller at any moment."""
    there: list[Heard] = []
    behave = make()

    def hold(connection: socket.socket, heard: Heard) -> None:
        hear(connection, heard)
        if behave is not silent:
            connection.sendall(b"R")
            exactly(connection, 1)
        there.append(heard)
        heard.words = connection.recv(1) or b"end"

    with (
        scene.server(hold) as heard,
        subprocess.Popen([scene.launcher, *ARGV], env=scene.env, stdin=-3) as launcher,
    ):
        until(lambda: there)
        launcher.kill()
        launcher.wait()
        until(lambda: heard[0].words)
    assert heard[0].words == b"end"
