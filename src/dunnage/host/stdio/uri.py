"""The names of outputs that are URIs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dunnage.errors import InvalidArgument

_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class LogUri:
    """A file or a program that takes an output, by its URI."""

    path: str
    arguments: tuple[str, ...] = ()
    """Each key of the query and its first value, in their order."""

    @classmethod
    def parse(cls, uri: str) -> LogUri:
        """Take a URI apart; what has no absolute path is refused.

        Raises:
            InvalidArgument: its path is not absolute.
        """
        _, _, rest = uri.partition("://")
        rest, _, _ = rest.partition("#")
        path, _, query = rest.partition("?")
        if not path.startswith("/"):
            # containerd would take "a/b" for the path /b on the host a.
            raise InvalidArgument(f"{uri} has no absolute path")
        values: dict[str, str] = {}
        for pair in filter(None, query.split("&")):
            key, _, value = pair.replace("+", " ").partition("=")
            values.setdefault(_unescaped(key), _unescaped(value))
        arguments = [word for pair in values.items() for word in pair]
        return cls(_unescaped(path), tuple(arguments))


def _unescaped(text: str) -> str:
    plain = _ESCAPE.sub(
        lambda found: bytes.fromhex(str(found[1], "ascii")), text.encode()
    )
    return plain.decode(errors="surrogateescape")
