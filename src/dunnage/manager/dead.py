"""A task whose shim is gone without a Delete: buried, and spoken for, once.

Owns: when a shim counts as dead, and what is said in its place: as containerd does for
the tasks that it knows (its ``cleanupAfterDeadShim``).
Must not know: why the shim died.

Invariant (delete-then-speak): the shim's `delete` has ended well before anything is
    said; a `delete` that fails says nothing, and is tried again by whoever comes next.
Invariant (buried-once): the burial is done under the task's lock, and what the log has
    of this life already is not said again.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

from dunnage.bootstrap import bundle as files
from dunnage.errors import ConnectionBroken, DunnageError, FailedPrecondition

from . import bundles, life
from .client import Exit, Task
from .inbox import Inbox
from .launch import Shim
from .lock import locked, maybe_locked
from .tidy import tidy

if TYPE_CHECKING:
    from .bundles import Bundle
    from .places import Places

_log: Final = logging.getLogger("dunnage.manager")

_NOBODY_LISTENS: Final = (errno.ENOENT, errno.ECONNREFUSED)


async def is_dead(bundle: Bundle, namespace: str) -> bool:
    """Tell whether a task's shim was started, and is not there any more.

    Raises:
        DunnageError: the bundle's words make no sense, or the shim is too busy to say.
    """
    if not (bundle.path / files.SHIM_BINARY_PATH).exists():
        return False
    try:
        task = await Task.connect(bundle, namespace)
    except ConnectionBroken as error:
        cause = error.__cause__
        return cause is None or (
            isinstance(cause, OSError) and cause.errno in _NOBODY_LISTENS
        )
    task.close()
    return False


async def bury_dead(shim: Shim, bundle: Bundle, inbox: Inbox) -> Exit:
    """Clean up after a dead shim, say what it did not, and return init's exit.

    If another manager does it, that is waited for.
    Cancelling it, or its failure, leaves the rest to whoever comes next.

    Raises:
        FailedPrecondition: the shim is not dead.
        DunnageError: its binary's `delete` failed, or the bundle stays mounted.
        ConnectionBroken: another manager has buried it, and nothing was said.
    """
    since_ns = life.born_ns(bundle)
    async with locked(bundle) as is_there:
        if is_there:
            return await bury_locked(shim, bundle, inbox)
    said = life.read(shim.places, bundle.id, since_ns).exit
    if said is None:
        raise ConnectionBroken(f"the shim of {bundle.id} is gone, and so is its task")
    return said


async def bury_locked(shim: Shim, bundle: Bundle, inbox: Inbox) -> Exit:
    """Do as `bury_dead`; its lock is held."""
    places = shim.places
    if not await is_dead(bundle, places.namespace):
        raise FailedPrecondition(f"the shim of {bundle.id} is not gone")
    # Only what a runtime finished can be known to anybody.
    was_created = (bundle.path / files.INIT_PID).exists()
    deleted = await shim.delete(bundle)
    exit_ = Exit(deleted.pid, deleted.exit_status, deleted.exited_at_ns)
    so_far = life.read(places, bundle.id, life.born_ns(bundle))
    if so_far.exit is not None:
        exit_ = so_far.exit
    if so_far.is_created or was_created:
        if so_far.exit is None:
            await inbox.say(life.exit_event(places, bundle.id, exit_))
        if not so_far.is_deleted:
            await inbox.say(life.delete_event(places, bundle.id, exit_))
    bundles.delete(bundle)
    tidy(places)
    return exit_


async def reload(
    places: Places, *, debug: bool = False, inbox: Inbox | None = None
) -> dict[str, Exit]:
    """Bury every task of the namespace whose shim is dead; return their exits.

    Those that another manager is at are left to it, as are failures to the next one.
    """
    exits = {}
    for bundle in bundles.list_all(places):
        try:
            if await is_dead(bundle, places.namespace):
                exit_ = await _maybe_bury(places, bundle, debug=debug, inbox=inbox)
                if exit_ is not None:
                    exits[bundle.id] = exit_
        except (DunnageError, OSError) as error:
            _log.warning("%s: %s", bundle.id, error)
    return exits


async def _maybe_bury(
    places: Places, bundle: Bundle, *, debug: bool, inbox: Inbox | None
) -> Exit | None:
    with maybe_locked(bundle) as is_there:
        # Looked at again: it may have been started only now.
        if not is_there or not await is_dead(bundle, places.namespace):
            return None
        shim = Shim.of(bundle, places, debug=debug)
        if inbox is not None:
            return await bury_locked(shim, bundle, inbox)
        async with Inbox(places) as own:
            return await bury_locked(shim, bundle, own)
