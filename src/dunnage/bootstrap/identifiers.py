"""containerd's rule for names: namespaces, containers, execs, parts of a topic.

Owns: the rule and the text of its refusal.
Must not know: who asks.

A name that keeps the rule has no ``/`` and is neither ``.`` nor ``..``, so it can be
a file name.
Written without ``re``, whose import costs the thin client more than the check.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

LIMIT_CHARS: Final = 76


def is_identifier(text: str) -> bool:
    """Return whether ``text`` is alphanumeric ASCII with single separators inside."""
    if not 0 < len(text) <= LIMIT_CHARS or not text.isascii():
        return False
    parts = text.replace("_", ".").replace("-", ".").split(".")
    return all(part.isalnum() for part in parts)


def validate(kind: str, text: str) -> None:
    """Refuse a ``text`` that is no identifier; ``kind`` says what it should name.

    Raises:
        InvalidArgument: with a text that says which part of the rule is broken.
    """
    if is_identifier(text):
        return
    # Late: only a refusal pays for the import.
    from dunnage.errors import InvalidArgument

    if not text:
        raise InvalidArgument(f"{kind} must not be empty")
    if len(text) > LIMIT_CHARS:
        raise InvalidArgument(
            f"{kind} {text[:LIMIT_CHARS]!r}... is longer than {LIMIT_CHARS} characters"
        )
    raise InvalidArgument(
        f"{kind} {text!r} must be letters and digits, with single '.', '_' or '-' "
        "between them"
    )
