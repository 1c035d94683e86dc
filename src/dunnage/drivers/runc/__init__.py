"""The driver for runc and crun, and for what has their command line."""

from __future__ import annotations

from . import configuration
from .bury import bury
from .driver import RuncDriver
from .features import features
from .options import Options

__all__ = ["Options", "RuncDriver", "bury", "configuration", "features"]
