"""The command ``dunnage``: containers without a daemon."""

from __future__ import annotations
