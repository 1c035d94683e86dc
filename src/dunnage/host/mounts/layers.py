"""The lower directories of an overlay: told to the kernel in few words.

mount(2) takes one page of data; a hundred layers' full paths are more.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

_LOWER: Final = "lowerdir="
_BETWEEN: Final = re.compile(r"(?<!\\):")
_ESCAPED: Final = re.compile(r"\\(.)")


class Layers(NamedTuple):
    """Options of an overlay whose lower directories are below one directory."""

    directory: str
    """The deepest that all are in."""
    words: tuple[str, ...]
    """The options, with the lower directories relative to that; these come last."""


def shorten(words: Sequence[str]) -> Layers | None:
    """Return the options in few words; None if there is no such directory."""
    lower = [word.removeprefix(_LOWER) for word in words if word.startswith(_LOWER)]
    paths = _BETWEEN.split(lower[0]) if len(lower) == 1 else []
    if not paths or not all(map(_is_plain, paths)):
        return None
    paths = [os.path.normpath(path) for path in paths]
    directory = os.path.commonpath(os.path.dirname(path) for path in paths)
    short = ":".join(path.removeprefix(directory).lstrip("/") for path in paths)
    rest = [word for word in words if not word.startswith(_LOWER)]
    # What is escaped for an overlay's option is not for us.
    return Layers(_ESCAPED.sub(r"\1", directory), (*rest, f"{_LOWER}{short}"))


def _is_plain(path: str) -> bool:
    """Whether what a path names can be told from its text."""
    return path.startswith("/") and ".." not in path.split("/")


@contextlib.contextmanager
def working_in(directory: str) -> Iterator[None]:
    """Have this process, and nobody else, work in a directory for a while.

    Raises:
        OSError: it cannot.
    """
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(directory)
        yield
    finally:
        os.fchdir(before)
        os.close(before)
