"""A typed, partial view of the OCI runtime specification."""

from __future__ import annotations
