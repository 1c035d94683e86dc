"""Processes: spawn, reap, signal."""

from __future__ import annotations
