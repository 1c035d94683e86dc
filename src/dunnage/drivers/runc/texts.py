"""What a runtime said, turned into the error that containerd's clients expect.

Docker finds its exit codes 126 and 127 in these texts, and others match on them; they
are those of containerd's ``process/utils.go`` and go-runc.
"""

from __future__ import annotations

import errno
import json
import os
import signal

from dunnage.errors import (
    DunnageError,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unimplemented,
    Unknown,
)

_NO_SPACE = os.strerror(errno.ENOSPC).lower()
_NO_SUCH_COMMAND = ("unknown command", "unrecognized option")
_NO_CRIU = ("executable file not found", "no such file or directory")
_LAST_ERRORS = 3
_FINISHED = ("os: process already finished", "container not running")


def last_error(log: str) -> str | None:
    """Return the message of the last error in a runtime's JSON log, if there is one.

    Raises:
        ValueError: it is not made of JSON objects.
    """
    message = None
    decoder = json.JSONDecoder()
    position = 0
    while text := log[position:].lstrip():
        position = len(log) - len(text)
        entry, used = decoder.raw_decode(text)
        position += used
        if not isinstance(entry, dict):
            raise ValueError("log entry is not an object")  # noqa: TRY004  # as bad
        if entry.get("level") == "error":
            message = str(entry.get("msg", "")).strip()
    return message


def failure(
    prefix: str,
    log: str | OSError,
    reason: str,
    *,
    kind: type[DunnageError] = Unknown,
    disk_is_full: bool = False,
) -> DunnageError:
    """Describe a failed command by what its log says, or else by ``reason``.

    Args:
        prefix: for instance ``OCI runtime create failed``.
        log: what the command added to its log, or why that could not be read.
        reason: how the command ended, such as ``exit status 1``.
        kind: the class of the error, unless there was no space.
        disk_is_full: whether the log had no room: then that is why it says nothing.
    """
    message, unread = None, ""
    if isinstance(log, OSError):
        unread = f"open {log.filename}: {(log.strerror or str(log)).lower()}"
    else:
        try:
            message = last_error(log)
        except ValueError as error:
            unread = str(error)
    why = message or reason
    if unread:
        why = f"unable to retrieve OCI runtime error ({unread}): {reason}"
    if message is None and disk_is_full:
        why += f" ({_NO_SPACE})"
    if _NO_SPACE in why.lower():
        kind = ResourceExhausted
    return kind(f"{prefix}: {why}")


def unstartable(error: OSError, program: str) -> str:
    """Say why a program could not be started, in the words of Go's os/exec.

    An error that met us before there was a process does not name the program.
    """
    name = str(error.filename or program)
    if isinstance(error, FileNotFoundError) and "/" not in name:
        return f'exec: "{name}": executable file not found in $PATH'
    return f"fork/exec {name}: {os.strerror(error.errno or 0).lower()}"


def ended(status: int) -> str:
    """Say how a program ended, in the words of Go's os/exec."""
    if status - 128 in signal.valid_signals():
        return f"signal: {(signal.strsignal(status - 128) or '').lower()}"
    return f"exit status {status}"


def unsuccessful(program: str, status: int, said: bytes = b"") -> str:
    """Say how a program ended and what it said, in the words of go-runc.

    Its words are as they were, with the end of their last line.
    """
    text = f": {said.decode(errors='replace')}" if said else ""
    return f"{program} did not terminate successfully: {ended(status)}{text}"


def is_about_nothing(text: str, state_directory: str) -> bool:
    """Tell whether a runtime failed because it knows no such container.

    crun's words for that name whichever file it missed first.
    """
    return "does not exist" in text or (
        "No such file or directory" in text and not os.path.exists(state_directory)
    )


def criu_failure(
    error: DunnageError, log: bytes, written: str, kept: str
) -> DunnageError:
    """Explain a failed checkpoint or restore by what criu has logged.

    Args:
        error: in the words of the runtime: the first line says all, if there is a log.
        log: the end of what criu has logged; empty if it never came to that.
        written: where criu has written it, which may be gone.
        kept: where it is kept.
    """
    kind, said = type(error), error.message
    if not log:
        if any(text in said for text in _NO_SUCH_COMMAND):
            kind = Unimplemented
        elif any(text in said for text in _NO_CRIU):
            kind = FailedPrecondition
        return kind(said)
    lines = log.decode(errors="replace").splitlines()
    errors = [line[line.index("Error") :] for line in lines if "Error" in line]
    tail = "; ".join(errors[-_LAST_ERRORS:] or lines[-_LAST_ERRORS:])
    if _NO_SPACE in tail.lower():
        kind = ResourceExhausted
    first = said.splitlines()[0].replace(written, kept)
    return kind(f"{first} path= {kept}: {tail}")


def kill_failure(text: str, state_directory: str) -> DunnageError:
    """Classify the text of a failed kill (containerd: ``checkKillError``)."""
    if any(part in text for part in _FINISHED) or "no such process" in text.lower():
        return NotFound("process already finished")
    if is_about_nothing(text, state_directory):
        return NotFound("no such container")
    return Unknown(f"unknown error after kill: {text}")
