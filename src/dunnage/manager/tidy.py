"""What is shared by the tasks of a namespace goes with the last of them.

Owns: which directories and cgroups these are.

Only what is empty is removed, and only while nobody can be about to put something
into it: a runtime makes its directories one by one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from dunnage.host import cgroups

from . import bundles
from .lock import places_locked

if TYPE_CHECKING:
    from .places import Places


def tidy(places: Places) -> None:
    """Remove the empty parents of the namespace's bundles, states and cgroups."""
    with places_locked(places, exclusively=True):
        if bundles.list_all(places):
            return
        states = places.runtime_root / places.namespace
        parents = [str(path) for path in (places.bundles, places.works, states)]
        for path in parents + cgroups.directories(places.cgroup):
            with suppress(OSError):  # absent, or not empty
                os.rmdir(path)
