"""Control groups: where one is, what is in it or befalls it, how all of it ends."""

from __future__ import annotations

from .apart import remove_empty_apart
from .group import kill_members, members, remove
from .kills import OomKills
from .paths import directories, of_process, path_in_spec
from .stats import Stats
from .stats import read as read_stats

__all__ = [
    "OomKills",
    "Stats",
    "directories",
    "kill_members",
    "members",
    "of_process",
    "path_in_spec",
    "read_stats",
    "remove",
    "remove_empty_apart",
]
