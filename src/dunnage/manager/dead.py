"""A task whose shim is gone without a Delete: buried, and spoken for, once.

Owns: what is said in a dead shim's place: as containerd does for the tasks that it
knows (its ``cleanupAfterDeadShim``).
Must not know: why the shim died.

Invariant (dead-is-gone): nobody speaks for a shim whose process lives, also if it
    listens no more: it is waited for, its events are received, or it is left to whoever
    comes next.

Invariant (delete-then-speak): the shim's `delete` has ended well before anything is
    said; a `delete` that fails says nothing, and is tried again by whoever comes next.
Invariant (buried-once): the burial is done under the task's lock, and what the log has
    of this life already is not said again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from dunnage.bootstrap import bundle as files
from dunnage.errors import ConnectionBroken, DunnageError, FailedPrecondition

from . import bundles, life
from .client import Exit
from .inbox import Inbox
from .launch import Shim
from .lock import locked, maybe_locked
from .presence import Presence, gone, kill_noted, presence, was_started
from .tidy import tidy

if TYPE_CHECKING:
    from .bundles import Bundle
    from .places import Places

_log: Final = logging.getLogger("dunnage.manager")

# How long whoever attends waits for a shim that leaves: it says its events to us, who
# receive them; what is unread may hold it for longer.
_LEAVING_LIMIT_S: Final = 30.0
# How long one who gives up what is unread waits, and then for the kernel.
_FORCED_LIMIT_S: Final = 5.0
# How long those who only come by wait, for all shims together.
_PASSING_LIMIT_S: Final = 2.0


async def bury_dead(
    shim: Shim, bundle: Bundle, inbox: Inbox, *, force: bool = False
) -> Exit:
    """Clean up after a dead shim, say what it did not, and return init's exit.

    One that leaves is waited for, and with ``force`` killed.
    If another manager does it, that is waited for.
    Cancelling it, or its failure, leaves the rest to whoever comes next.

    Raises:
        FailedPrecondition: the shim serves, or does not go.
        DunnageError: its binary's `delete` failed, or the bundle stays mounted.
        ConnectionBroken: another manager has buried it, and nothing was said.
    """
    born = life.born(bundle)
    async with locked(bundle) as is_there:
        if is_there:
            return await bury_locked(shim, bundle, inbox, force=force)
    said = life.read(shim.places, bundle.id, born).exit
    if said is None:
        raise ConnectionBroken(f"the shim of {bundle.id} is gone, and so is its task")
    return said


async def bury_locked(
    shim: Shim,
    bundle: Bundle,
    inbox: Inbox,
    *,
    force: bool = False,
    limit_s: float | None = None,
) -> Exit:
    """Do as `bury_dead`; its lock is held."""
    places = shim.places
    if not was_started(bundle):
        raise FailedPrecondition(f"task {bundle.id} has no shim yet")
    await _expect_gone(
        bundle,
        places.namespace,
        force=force,
        limit_s=_LEAVING_LIMIT_S if limit_s is None else limit_s,
    )
    # Only what a runtime finished can be known to anybody.
    was_created = (bundle.path / files.INIT_PID).exists()
    deleted = await shim.delete(bundle)
    exit_ = Exit(deleted.pid, deleted.exit_status, deleted.exited_at_ns)
    exit_ = await say_unsaid(places, bundle, inbox, exit_, was_created=was_created)
    bundles.delete(bundle)
    tidy(places)
    return exit_


async def say_unsaid(
    places: Places,
    bundle: Bundle,
    inbox: Inbox,
    exit_: Exit,
    *,
    was_created: bool = False,
) -> Exit:
    """Say what the log does not have of a created task's end; return its exit.

    Its shim is gone, and `delete` has ended well.
    """
    so_far = life.read(places, bundle.id, life.born(bundle))
    if so_far.exit is not None:
        exit_ = so_far.exit
    if so_far.is_created or was_created:
        if so_far.exit is None:
            await inbox.say(life.exit_event(places, bundle.id, exit_))
        if not so_far.is_deleted:
            await inbox.say(life.delete_event(places, bundle.id, exit_))
    return exit_


async def _expect_gone(
    bundle: Bundle, namespace: str, *, force: bool, limit_s: float
) -> None:
    if force:
        limit_s = _FORCED_LIMIT_S
    if await gone(bundle, namespace, limit_s=limit_s):
        return
    is_leaving = await presence(bundle, namespace) is Presence.LEAVING
    if is_leaving and force:
        _log.warning("%s: its shim is killed; what it held is lost", bundle.id)
        kill_noted(bundle)
        if await gone(bundle, namespace, limit_s=_FORCED_LIMIT_S):
            return
    raise FailedPrecondition(
        f"the shim of {bundle.id} has left its socket, and not gone yet: output is "
        f"unread, perhaps; drop that with: dunnage rm -f {bundle.id}"
        if is_leaving
        else f"the shim of {bundle.id} is not gone"
    )


async def reload(
    places: Places, *, debug: bool = False, inbox: Inbox | None = None
) -> dict[str, Exit]:
    """Bury every task of the namespace whose shim is dead; return their exits.

    Those that another manager is at are left to it, as are failures to the next one.
    For shims that leave it receives, and waits a moment.
    """
    exits = {}
    loop = asyncio.get_running_loop()
    end = loop.time() + _PASSING_LIMIT_S
    for bundle in bundles.list_all(places):
        try:
            if await _is_there_to_stay(bundle, places.namespace):
                continue
            limit_s = max(0.0, end - loop.time())
            shim = Shim.of(bundle, places, debug=debug)
            exit_ = await _maybe_bury(shim, bundle, inbox, limit_s)
            if exit_ is not None:
                exits[bundle.id] = exit_
        except FailedPrecondition as error:
            _log.debug("%s: %s", bundle.id, error)
        except (DunnageError, OSError) as error:
            _log.warning("%s: %s", bundle.id, error)
    return exits


async def _is_there_to_stay(bundle: Bundle, namespace: str) -> bool:
    if not was_started(bundle):
        return True
    return await presence(bundle, namespace) is Presence.SERVING


async def _maybe_bury(
    shim: Shim, bundle: Bundle, inbox: Inbox | None, limit_s: float
) -> Exit | None:
    with maybe_locked(bundle) as is_there:
        # Looked at again: it may have been started only now.
        if not is_there or await _is_there_to_stay(bundle, shim.places.namespace):
            return None
        if inbox is not None:
            # Who stays, and receives, need not wait.
            return await bury_locked(shim, bundle, inbox, limit_s=0.0)
        async with Inbox(shim.places) as own:
            return await bury_locked(shim, bundle, own, limit_s=limit_s)
