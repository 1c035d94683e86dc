"""Control groups: where one is, what is in it, and how all of it ends."""

from __future__ import annotations

from .apart import remove_empty_apart
from .group import kill_members, members, remove
from .paths import directories, path_in_spec

__all__ = [
    "directories",
    "kill_members",
    "members",
    "path_in_spec",
    "remove",
    "remove_empty_apart",
]
