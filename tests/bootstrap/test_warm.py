"""Tests of `dunnage.bootstrap.warm`: keys, names and messages."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.bootstrap import warm

WORDS = st.lists(st.binary(max_size=40), max_size=6)


@pytest.fixture
def own() -> Iterator[int]:
    """Return an fd of our own /proc."""
    fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_a_name_is_fnv_1a() -> None:
    """The published vectors of FNV-1a with 64 bits."""
    assert "cbf29ce484222325" == warm.name(b"")
    assert "af63dc4c8601ec8c" == warm.name(b"a")
    assert "85944171f73967e8" == warm.name(b"foobar")


@pytest.mark.parametrize(
    ("told", "uid", "expected"),
    [
        ("", 0, "/run/dunnage/forkserver"),
        ("", 1000, "/run/user/1000/dunnage/forkserver"),
        ("/else/where", 0, "/else/where"),
        ("off", 0, None),
        ("relative", 0, None),
    ],
)
def test_where_servers_are(told: str, uid: int, expected: str | None) -> None:
    """A variable of the environment moves them, or forbids them."""
    assert expected == warm.directory({warm.DIRECTORY_VARIABLE: told}, uid)


def test_a_key_is_the_same_twice(own: int) -> None:
    """It has nothing in it that changes by itself."""
    environ = [b"LD_PRELOAD=x", b"HOME=/"]
    assert warm.key(own, "c", environ) == warm.key(own, "c", reversed(environ))


def test_what_no_program_is_started_with_is_not_in_a_key(own: int) -> None:
    """Of the environment only what acts before us counts."""
    assert warm.key(own, "c", []) == warm.key(own, "c", [b"HOME=/", b"PATH=/bin"])


@pytest.mark.parametrize(
    "entry",
    [b"LD_PRELOAD=x", b"MALLOC_ARENA_MAX=1", b"PYTHONPATH=/", b"GLIBC_TUNABLES="],
)
def test_what_acts_before_us_is_in_a_key(own: int, entry: bytes) -> None:
    """Another value of such a variable is another key."""
    assert warm.key(own, "c", []) != warm.key(own, "c", [entry])


@pytest.mark.parametrize(
    "prefix",
    [
        ["unshare", "--uts"],
        ["unshare", "--mount"],
        ["unshare", "--net"],
        ["nice", "-n", "5"],
        ["setpriv", "--bounding-set", "-sys_boot"],
        ["setpriv", "--no-new-privs"],
        ["prlimit", "--core=1"],
        ["taskset", "1"],
        ["setarch", "--addr-no-randomize"],
        ["chrt", "--batch", "0"],
    ],
)
def test_who_stands_elsewhere_has_another_key(own: int, prefix: list[str]) -> None:
    """Each for itself: namespaces, privileges, limits, scheduling, personality."""
    with subprocess.Popen(
        [*prefix, "sh", "-c", "echo; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        other = os.open(f"/proc/{process.pid}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            assert warm.key(own, "c", []) != warm.key(other, "c", [])
            assert os.getpid() == warm.parent(other)
        finally:
            os.close(other)


def test_of_a_process_that_is_gone_a_key_has_nothing() -> None:
    """What cannot be read is empty: it is no error, and fits nobody."""
    with subprocess.Popen(["true"]) as process:
        fd = os.open(f"/proc/{process.pid}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert b"code=c\nattr=\nroot=\n" in warm.key(fd, "c", [])
        assert 0 == warm.parent(fd)
    finally:
        os.close(fd)


@given(WORDS, WORDS, st.binary(max_size=99), st.integers(0, 0o777))
def test_a_request_is_read_as_it_was_written(
    argv: list[bytes], environ: list[bytes], stdin: bytes, umask: int
) -> None:
    """Whatever bytes it is made of."""
    request = warm.Request(
        umask=umask, code="c", argv=argv, environ=environ, stdin=stdin
    )
    message = request.pack()
    header, body = message[: warm.HEADER_BYTES], message[warm.HEADER_BYTES :]
    assert len(body) == warm.body_length(header)
    assert request == warm.Request.parse(body)
    with pytest.raises(warm.WireError):
        warm.Request.parse(body[:-1])


@given(st.integers(0, 255), st.binary(), st.binary())
def test_an_answer_is_read_as_it_was_written(
    status: int, stdout: bytes, stderr: bytes
) -> None:
    """Not before it is whole, and nothing behind it."""
    answer = warm.Answer(status, stdout, stderr)
    message = answer.pack()
    assert answer == warm.Answer.parse(message)
    for broken in (message[:-1], message + b"x", b"", b"X" + message[1:]):
        with pytest.raises(warm.WireError):
            warm.Answer.parse(broken)


@given(st.binary(max_size=60))
def test_bytes_of_a_stranger(data: bytes) -> None:
    """They mean something, or there is a WireError."""
    for read in (warm.Request.parse, warm.Answer.parse, warm.body_length):
        with contextlib.suppress(warm.WireError):
            read(data)
