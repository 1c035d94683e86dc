"""The streams of a process: one port with a source, a sink and a policy.

`Stdio` is the face: it opens what a request names and copies until the end.
`Held` is where it goes when its process is deleted.
Source: a pipe or a terminal.
Sinks: a fifo, a file, a program (a logger) or nothing.
Policy: block; a file drops what it cannot take, as does a logger that was given up.
Whatever comes later (spills) is a source, a sink or a policy.
"""

from __future__ import annotations

from .held import Held
from .logger import Logged
from .streams import Stdio

__all__ = ["Held", "Logged", "Stdio"]
