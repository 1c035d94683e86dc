"""What the fork server does before it forks for the first time.

Everything that a shim may ever import is imported, and what a life touches is touched
once: a fork then finds it warm, and shares it with all others.

Invariant (imports-nothing-later): what is imported here is all that a shim, a `delete`
or an ``-info`` will import.
"""

from __future__ import annotations

import gc


def make_ready() -> None:
    """Import, warm up, and put it all out of the collector's sight."""
    _import_all()
    gc.collect()
    gc.freeze()
    gc.disable()


def _import_all() -> None:
    from . import delete, info, join, start  # noqa: F401
