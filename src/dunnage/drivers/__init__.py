"""What runs containers: the contract and its implementations."""

from __future__ import annotations
