"""Removing cgroups in a process of its own, for an event loop: it may take long."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dunnage.errors import DunnageError
from dunnage.host import errands, native

if TYPE_CHECKING:
    from dunnage.host.procs import Children


async def remove_empty_apart(children: Children, directories: Sequence[str]) -> bool:
    """Remove cgroups that have neither processes nor cgroups in them.

    It ends at one that has: the others may be gone by then.

    Returns:
        Whether all are gone.
    """
    try:
        if native.library:
            paths = native.pointers([os.fsencode(path) for path in directories])
            call = native.Errand(directories=paths)
            code = await errands.run(children, native.library.dunnage_rmdir, call)
            if code != errno.ENOSYS:
                return code == 0
        await children.call(lambda: _remove(directories))
    except (DunnageError, OSError):
        return False
    return True


def _remove(directories: Sequence[str]) -> None:
    for path in directories:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
