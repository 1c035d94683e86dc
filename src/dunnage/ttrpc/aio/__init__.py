"""The asyncio client and server: the one place of ttrpc that touches sockets."""

from __future__ import annotations
