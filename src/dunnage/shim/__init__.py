"""The server half: what containerd calls."""

from __future__ import annotations
