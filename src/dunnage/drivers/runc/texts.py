"""What a runtime said, turned into the error that containerd's clients expect.

Docker finds its exit codes 126 and 127 in these texts, and others match on them; they
are those of containerd's ``process/utils.go`` and go-runc.
"""

from __future__ import annotations

import json
import os

from dunnage.errors import DunnageError, NotFound, Unknown
from dunnage.host.procs import Completed

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


def failure(prefix: str, log: str | OSError, reason: str) -> DunnageError:
    """Describe a failed command by what its log says, or else by ``reason``.

    Args:
        prefix: for instance ``OCI runtime create failed``.
        log: what the command added to its log, or why that could not be read.
        reason: how the command ended, such as ``exit status 1``.
    """
    if isinstance(log, OSError):
        why = f"open {log.filename}: {(log.strerror or str(log)).lower()}"
        return Unknown(
            f"{prefix}: unable to retrieve OCI runtime error ({why}): {reason}"
        )
    try:
        message = last_error(log)
    except ValueError as error:
        return Unknown(
            f"{prefix}: unable to retrieve OCI runtime error ({error}): {reason}"
        )
    return Unknown(f"{prefix}: {message or reason}")


def unstartable(error: OSError) -> str:
    """Say why a program could not be started, in the words of Go's os/exec."""
    name = str(error.filename or "")
    if isinstance(error, FileNotFoundError) and "/" not in name:
        return f'exec: "{name}": executable file not found in $PATH'
    return f"fork/exec {name}: {os.strerror(error.errno or 0).lower()}"


def ended(status: int) -> str:
    """Say how a program ended, in the words of Go's os/exec."""
    return f"signal: {status - 128}" if status > 128 else f"exit status {status}"


def unsuccessful(completed: Completed) -> str:
    """Say how a program ended and what it said, in the words of go-runc."""
    said = (completed.stdout + completed.stderr).decode(errors="replace").strip()
    return f"runc did not terminate successfully: {ended(completed.status)}: {said}"


def kill_failure(text: str) -> DunnageError:
    """Classify the text of a failed kill (containerd: ``checkKillError``)."""
    if any(part in text for part in _FINISHED) or "no such process" in text.lower():
        return NotFound("process already finished")
    if "does not exist" in text:
        return NotFound("no such container")
    return Unknown(f"unknown error after kill: {text}")
