"""The life of a task: pure, synchronous, the only source of the order of events."""

from __future__ import annotations
