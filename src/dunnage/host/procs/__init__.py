"""Processes: spawning them, reaping them at once, and knowing whose status it was."""

from __future__ import annotations

from .child import Child, Exited, Listener
from .children import Children, Claim, Completed
from .prctl import set_child_subreaper, share_no_core
from .spawn import run_to_end, spawn

__all__ = [
    "Child",
    "Children",
    "Claim",
    "Completed",
    "Exited",
    "Listener",
    "run_to_end",
    "set_child_subreaper",
    "share_no_core",
    "spawn",
]
