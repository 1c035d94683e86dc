"""``dunnage install``, ``uninstall`` and ``install --check``."""

from __future__ import annotations
