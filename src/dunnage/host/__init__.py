"""The kernel, and nothing else."""

from __future__ import annotations
