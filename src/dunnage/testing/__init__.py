"""What users of this package test their own code with."""

from __future__ import annotations
