"""Control groups: where one is, what is in it or befalls it, how all of it ends."""

from __future__ import annotations

from . import attaching
from .apart import remove_empty_apart
from .group import join, kill_members, members, remove
from .kills import OomKills
from .paths import (
    directories,
    expect_systemd,
    is_for_systemd,
    of_process,
    path_in_spec,
)
from .stats import Stats
from .stats import read as read_stats

__all__ = [
    "OomKills",
    "Stats",
    "attaching",
    "directories",
    "expect_systemd",
    "is_for_systemd",
    "join",
    "kill_members",
    "members",
    "of_process",
    "path_in_spec",
    "read_stats",
    "remove",
    "remove_empty_apart",
]
