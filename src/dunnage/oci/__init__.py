"""A typed, partial view of the OCI runtime specification's config.json: pure."""

from __future__ import annotations

from .spec import Spec

__all__ = ["Spec"]
