"""What the fork server does before it forks for the first time.

Everything that a shim may ever import is imported, and what a life touches is touched
once: a fork then finds it warm, and shares it with all others.

Invariant (imports-nothing-later): what is imported here is all that a shim, a `delete`
or an ``-info`` will import.
"""

from __future__ import annotations

import gc

from dunnage.host import immortal, memory, pools

from . import rehearsal, still


def make_ready(directory: str) -> None:
    """Import, warm up, and put it all out of the collector's sight; then share it.

    Args:
        directory: where a rehearsal may have files for a while.
    """
    _import_all()
    still.stand_still()  # before anything is hot: what is counted is written to
    rehearsal.rehearse(directory)
    gc.collect()
    immortal.make_immortal()
    share()


def share() -> None:
    """Share what there is by now; it may be done again, before there are forks."""
    gc.collect()
    memory.trim()
    pools.fill_up()
    gc.freeze()
    gc.disable()
    memory.share()


def _import_all() -> None:
    from . import delete, info, join, start  # noqa: F401
