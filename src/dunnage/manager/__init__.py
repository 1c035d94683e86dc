"""The client half of Runtime v2: bundles, starting and burying shims, their events."""

from __future__ import annotations
