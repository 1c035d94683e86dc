"""Every test that runs a loop runs on both."""

from __future__ import annotations

from tests.loops import each_loop

__all__ = ["each_loop"]
