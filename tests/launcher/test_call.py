"""What the launcher makes of flags, stdin and the descriptors that it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import expected
from .scene import ARGV, COLD, Scene, answers

LIMIT_BYTES = (10 << 20) + 1


def said(scene: Scene, words: tuple[str, ...], stdin: bytes) -> bytes:
    """Return the request that must be made."""
    argv = [os.fsencode(scene.launcher), *map(os.fsencode, words)]
    return expected.request(scene.code, argv, scene.entries(), stdin, 0o22)


@pytest.mark.parametrize(
    ("words", "reads"),
    [
        (("start",), True),
        (("-namespace", "n", "--id", "delete", "start"), True),
        (("-id=delete", "-debug", "start"), True),
        (("--", "start"), True),
        (("-v=false", "start"), True),
        (("-info",), True),
        (("-info", "start"), True),
        (("-id", "start", "delete"), False),
        (("-v",), False),
        (("-version", "start"), False),
        (("-h",), False),
        (("--help", "start"), False),
        (("-bogus", "start"), False),
        (("restart",), False),
        (("-", "start"), False),
    ],
)
def test_who_is_asked(scene: Scene, words: tuple[str, ...], *, reads: bool) -> None:
    """Every action goes to the server, and stdin with those that read it."""
    with scene.server(answers()) as heard:
        done = scene.run(*words, input=b"options", umask=0o22)
    assert (7, b"out", b"err") == (done.returncode, done.stdout, done.stderr)
    assert said(scene, words, b"options" if reads else b"") == heard[0].message


@pytest.mark.parametrize(
    "words", [(), ("",), ("-namespace", "start"), ("-id",), ("--",), ("-debug",)]
)
def test_a_server_is_not_asked_to_be_one(scene: Scene, words: tuple[str, ...]) -> None:
    """Without an action it is the internal way of being a server: cold."""
    with scene.server(answers()) as heard:
        done = scene.run(*words)
    assert (COLD, b"cold") == (done.returncode, done.stdout)
    assert not heard


def test_more_than_the_limit_is_not_read(scene: Scene) -> None:
    """One byte more than allowed goes on, so that the shim can say it is too much."""
    with scene.server(answers()) as heard:
        done = scene.run(*ARGV, input=bytes(LIMIT_BYTES + 5), umask=0o22)
    assert done.returncode == 7
    assert said(scene, ARGV, bytes(LIMIT_BYTES)) == heard[0].message


def test_a_stdin_that_does_not_end_is_not_waited_for(scene: Scene) -> None:
    """An action that does not read stdin does not wait for its end."""
    reading, writing = os.pipe()
    try:
        with scene.server(answers()):
            done = scene.run("delete", stdin=reading)
        assert done.returncode == 7
    finally:
        os.close(reading)
        os.close(writing)


def test_a_terminal_says_nothing(scene: Scene) -> None:
    """Nobody types a message of options, with a server and without."""
    ours, its = os.openpty()
    try:
        with scene.server(answers()) as heard:
            assert scene.run(*ARGV, stdin=its, umask=0o22).returncode == 7
        assert said(scene, ARGV, b"") == heard[0].message
        assert scene.run(*ARGV, stdin=its).returncode == COLD
        assert not scene.cold()["stdin"]
    finally:
        os.close(ours)
        os.close(its)


def test_a_stdin_that_does_not_wait_is_waited_for(scene: Scene) -> None:
    """O_NONBLOCK of somebody else's is no end of the file."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    slow = "import os, sys; sys.stdin.read(1); os.write(1, b'late')"
    with subprocess.Popen(
        [sys.executable, "-ISc", slow], stdin=subprocess.PIPE, stdout=writing
    ) as writer:
        os.close(writing)

        def let_it_write() -> None:
            writer.communicate(b"x")

        with scene.server(answers()) as heard:
            popen: list[str | Path] = [scene.launcher, *ARGV]
            with subprocess.Popen(
                popen, env=scene.env, stdin=reading, umask=0o22, stdout=-1, stderr=-1
            ) as launcher:
                let_it_write()
                launcher.communicate(timeout=20)
    os.close(reading)
    assert launcher.returncode == 7
    assert said(scene, ARGV, b"late") == heard[0].message


def test_closed_descriptors_are_no_others(scene: Scene) -> None:
    """With 0, 1 and 2 closed no socket takes their place; the status comes through."""
    closing = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "-"]
    with scene.server(answers()) as heard:
        done = scene.run(*ARGV, prefix=closing, input=b"options")
    assert (7, b"", b"") == (done.returncode, done.stdout, done.stderr)
    assert heard[0].message.endswith(expected.text(b""))
    assert scene.run(*ARGV, prefix=closing).returncode == COLD
    fds = scene.cold()["fds"]
    assert ["/dev/null"] * 3 == [fds[fd] for fd in "012"]


def test_the_working_directory_goes_along(scene: Scene) -> None:
    """The server's child can go where we are, even if that was removed."""
    where = scene.directory / "here"
    where.mkdir()
    before = (where.stat().st_dev, where.stat().st_ino)
    removing = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "-"]
    with scene.server(answers()) as heard:
        assert scene.run(*ARGV, cwd=where).returncode == 7
        assert scene.run(*ARGV, cwd=where, prefix=removing).returncode == 7
    assert [before, before] == [each.cwd for each in heard]


def test_pending_signals_stay_pending(scene: Scene) -> None:
    """A signal that waits, blocked, changes nothing."""
    argv = [b"shim", *map(os.fsencode, ARGV)]
    with scene.server(answers()) as heard:
        done = scene.run_odd(argv, scene.entries(), b"options", "pending")
    assert (7, b"out", b"err") == (done.returncode, done.stdout, done.stderr)
    assert heard[0].words == b"GK"
