"""Saying a task's events to the daemon: all of them, in order."""

from __future__ import annotations
