"""The words in which a runtime's failure reaches the client."""

from __future__ import annotations

import errno
import os

import pytest

from dunnage.drivers.runc import texts
from dunnage.errors import (
    DunnageError,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unimplemented,
    Unknown,
)

RUNC = '{"level":"%s","msg":"%s","time":"2024-05-01T10:00:00Z"}\n'
CRUN = '{"msg":"%s","level":"%s","time":"2024-05-01T10:00:00.1Z"}\n'


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", None),
        (" \n", None),
        (RUNC % ("warning", "hm"), None),
        (RUNC % ("error", " one "), "one"),
        (CRUN % ("one", "error"), "one"),
        (RUNC % ("error", "one") + RUNC % ("error", "two"), "two"),
        (RUNC % ("error", "one") + RUNC % ("warning", "two"), "one"),
        ('{"level": "error"}', ""),
        (RUNC % ("error", "one") + "\n\n" + RUNC % ("info", "x"), "one"),
    ],
)
def test_the_last_error_counts(log: str, expected: str | None) -> None:
    """Of all entries, the last one of level error, trimmed."""
    assert expected == texts.last_error(log)


@pytest.mark.parametrize("log", ["x", '{"level":', "[1]", RUNC % ("error", "x") + "?"])
def test_a_log_of_something_else_is_an_error(log: str) -> None:
    """What is not made of JSON objects is not guessed at."""
    with pytest.raises(ValueError, match=r".") as caught:
        texts.last_error(log)
    text = str(texts.failure("P", log, "exit status 1"))
    why = f"unable to retrieve OCI runtime error ({caught.value})"
    assert f"P: {why}: exit status 1" == text


def test_a_failure_says_what_the_log_says() -> None:
    """The error of the log, else how the command ended, else why there is no log."""
    said = texts.failure("P", RUNC % ("error", "no luck"), "exit status 1")
    assert (Unknown, "P: no luck") == (type(said), str(said))
    silent = texts.failure("P", "", "exit status 1")
    assert (Unknown, "P: exit status 1") == (type(silent), str(silent))
    missing = OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/b/log.json")
    unread = texts.failure("P", missing, "exit status 1")
    why = "open /b/log.json: no such file or directory"
    expected = f"P: unable to retrieve OCI runtime error ({why}): exit status 1"
    assert expected == str(unread)


@pytest.mark.parametrize(
    ("log", "is_full", "expected"),
    [
        ("", True, ResourceExhausted),
        ('{"level":"err', True, ResourceExhausted),
        (RUNC % ("error", "write init.pid: no space left on device"), False, None),
        (CRUN % ("write: No space left on device", "error"), True, ResourceExhausted),
        (RUNC % ("error", "something else"), True, Unknown),
    ],
)
def test_a_full_disk_is_told_as_one(
    log: str, is_full: bool, expected: type[DunnageError] | None
) -> None:
    """By the runtime's own words, or because its log had no room for any."""
    error = texts.failure("P", log, "exit status 1", disk_is_full=is_full)
    assert (expected or ResourceExhausted) is type(error)
    if expected is not Unknown:
        assert "no space left on device" in str(error).lower()


@pytest.mark.parametrize(
    ("code", "name", "expected"),
    [
        (errno.ENOENT, "nope", 'exec: "nope": executable file not found in $PATH'),
        (errno.ENOENT, "/x/nope", "fork/exec /x/nope: no such file or directory"),
        (errno.EACCES, "/x", "fork/exec /x: permission denied"),
        (errno.ENOEXEC, "/x", "fork/exec /x: exec format error"),
    ],
)
def test_a_program_that_cannot_be_started(code: int, name: str, expected: str) -> None:
    """In the words of Go, which Docker looks for."""
    assert expected == texts.unstartable(OSError(code, os.strerror(code), name), "")


def test_how_a_program_ended() -> None:
    """In the words of Go's os/exec: a status, or a signal by name."""
    assert "exit status 1" == texts.ended(1)
    assert "exit status 128" == texts.ended(128)
    assert "signal: killed" == texts.ended(137)
    assert "exit status 255" == texts.ended(255)


FIRST = "P: criu failed: type NOTIFY errno 0"
SAID = f"{FIRST}\nlog file: /w/dump.log"


@pytest.mark.parametrize(
    ("said", "log", "kind", "expected"),
    [
        ("P: oh", "", Unknown, "P: oh"),
        ("P: unknown command restore\n", "", Unimplemented, None),
        ("P: crun: unrecognized option '--empty-ns=x'", "", Unimplemented, None),
        ('P: exec: "criu": executable file not found', "", FailedPrecondition, None),
        (
            SAID,
            "(0.1) begun\n(0.2)   1: Error (a.c:1): one\n(0.3) hm\n(0.4) Error two\n",
            Unknown,
            f"{FIRST} path= /b: Error (a.c:1): one; Error two",
        ),
        (SAID, "1\n2\n3\n4\n", Unknown, f"{FIRST} path= /b: 2; 3; 4"),
        ("P: see /w", "a\n", Unknown, "P: see /b path= /b: a"),
        (SAID, "Error: No space left on device\n", ResourceExhausted, None),
    ],
)
def test_why_criu_failed(
    said: str, log: str, kind: type[DunnageError], expected: str | None
) -> None:
    """The runtime's first line, and the last errors that criu has logged."""
    error = texts.criu_failure(Unknown(said), log.encode(), "/w", "/b")
    assert (kind, expected or str(error)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("container not running", NotFound, "process already finished"),
        ("os: process already finished", NotFound, "process already finished"),
        ("kill container: No such process", NotFound, "process already finished"),
        ("container does not exist", NotFound, "no such container"),
        ("invalid argument", Unknown, "unknown error after kill: invalid argument"),
    ],
)
def test_why_a_kill_failed(text: str, kind: type[DunnageError], expected: str) -> None:
    """What has finished or never was is not found; the rest is told as it is."""
    error = texts.kill_failure(text, "/")
    assert (kind, expected) == (type(error), str(error))
