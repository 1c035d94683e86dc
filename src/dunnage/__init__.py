"""containerd Runtime v2 in Python: what lies between containerd and a container."""

from __future__ import annotations

__version__ = "0.1.0"
