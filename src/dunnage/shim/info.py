"""The ``-info`` action: who we are; what the runtime can do comes later."""

from __future__ import annotations

from dunnage import __version__
from dunnage.bootstrap import wire


def info(stdin: bytes) -> bytes:  # noqa: ARG001  # the options that it carries come later
    """Return the marshalled RuntimeInfo."""
    return wire.render_info("io.containerd.dunnage.v2", __version__)
