"""Which exit status a failure has.

Owns: Docker's mapping of a runtime's error text.
Must not know: where errors come from.
"""

from __future__ import annotations

from typing import Final

from dunnage.errors import AlreadyExists, DunnageError, NotFound

OWN_ERROR: Final = 125
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127

# Docker's order: what is denied is there.
_TEXTS: Final = (
    ("permission denied", NOT_EXECUTABLE),
    ("is a directory", NOT_EXECUTABLE),
    ("not a directory", NOT_FOUND),
    ("executable file not found", NOT_FOUND),
    ("no such file or directory", NOT_FOUND),
)


class CannotStart(DunnageError):
    """The OCI runtime was asked to run a command and said no."""


def exit_status(error: Exception) -> int:
    """Return what the CLI exits with.

    Docker takes every text for the command's fault; here only the OCI runtime's own
    texts are, so that a root filesystem that cannot be mounted stays an error of ours.
    """
    if isinstance(error, CannotStart) and "OCI runtime" in error.message:
        text = error.message.lower()
        for part, status in _TEXTS:
            if part in text:
                return status
    return OWN_ERROR


def one_line(error: Exception) -> str:
    """Return what the user reads."""
    if isinstance(error, NotFound | AlreadyExists):
        text = error.wire_text
    elif isinstance(error, DunnageError):
        # The other classes' texts say it all; "failed precondition" helps nobody.
        text = error.message
    elif isinstance(error, OSError) and error.strerror:
        text = (
            f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        )
    else:
        text = f"internal error: {type(error).__name__}: {error}"
    if isinstance(error, PermissionError):
        text += " (are you root?)"
    return " ".join(text.split())
