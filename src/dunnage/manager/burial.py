"""The end of a task: everything that it, and its shim, have left goes.

Owns: the order of the steps; it is containerd's.
Must not know: why.

The shim says its events itself; for one that dies meanwhile `dead` says what is unsaid.

Invariant (leaves-nothing): when `bury` returns, the task, its mounts and its bundle are
    gone, and its shim, but for one that holds unread output; when it raises, it can be
    called again.
Invariant (proven-shim): only the process at the other end of our connection is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dunnage.bootstrap import endpoint
from dunnage.errors import ConnectionBroken, DunnageError, NotFound
from dunnage.host.procs.peer import maybe_peer

from . import bundles, dead
from .client import Exit
from .lock import locked
from .presence import Presence, gone, presence
from .tidy import tidy

if TYPE_CHECKING:
    from .bundles import Bundle
    from .client import Task
    from .inbox import Inbox
    from .launch import Shim

_log: Final = logging.getLogger("dunnage.manager")

# How long what was killed may take to be gone.
_DEATH_LIMIT_S: Final = 10.0
# A shim that leaves first says what it still has to say.
_LEAVE_LIMIT_S: Final = 5.0
_LOOK_S: Final = 0.1
# Of one that dies, sockets are gone before its process is.
_MOMENT_S: Final = 1.0
# What containerd reports when not even the shim's `delete` knows.
_UNKNOWN_STATUS: Final = 255


async def bury(
    shim: Shim,
    bundle: Bundle,
    task: Task | None,
    inbox: Inbox,
    *,
    force: bool = False,
    drop_unread: bool = False,
) -> Exit:
    """Remove a task; return what became of its init.

    Args:
        shim: The binary that cleans up.
        bundle: The task's.
        task: A connection to its shim, which this ends; None if there is none to have.
        inbox: Where its events are received.
        force: Kill what runs, and a shim that does not answer.
        drop_unread: Kill also a shim that stays for output that nobody has read.

    Raises:
        DunnageError: the shim refuses (the task runs), or the bundle stays mounted; or
            the shim has died of it, and its binary's `delete` failed.
    """
    async with locked(bundle) as is_there:
        if not is_there and task is None:
            raise NotFound(f"task {bundle.id}")
        return await bury_locked(
            shim, bundle, task, inbox, force=force, drop_unread=drop_unread
        )


async def bury_locked(
    shim: Shim,
    bundle: Bundle,
    task: Task | None,
    inbox: Inbox,
    *,
    force: bool = False,
    drop_unread: bool = False,
) -> Exit:
    """Do as `bury`; the task's lock is held."""
    exit_ = None
    if task is not None:
        try:
            exit_ = await _part(task, shim, force=force, drop_unread=drop_unread)
        except ConnectionBroken:
            _log.warning("the shim of %s has died at its removal", bundle.id)
            return await dead.bury_locked(shim, bundle, inbox, force=force)
    deleted = await _maybe_clean_up(shim, bundle)
    if deleted is not None:
        exit_ = exit_ or deleted
        if await _is_dead(bundle, shim):
            exit_ = await dead.say_unsaid(shim.places, bundle, inbox, exit_)
    bundles.delete(bundle)
    tidy(shim.places)
    return exit_ or Exit(0, _UNKNOWN_STATUS, None)


async def _part(
    task: Task, shim: Shim, *, force: bool, drop_unread: bool
) -> Exit | None:
    """Have the shim delete the task and leave.

    Raises:
        ConnectionBroken: it has died before it answered.
    """
    try:
        if force:
            await _kill(task)
        exit_ = await _delete(task, force=force)
        await _shut_down(task, shim, force=force, drop_unread=drop_unread)
    finally:
        task.close()
    return exit_


async def _kill(task: Task) -> None:
    # Not there, dead already, or a shim that does not answer: on with the rest.
    with suppress(DunnageError, TimeoutError):
        async with asyncio.timeout(_DEATH_LIMIT_S):
            await task.kill(signal.SIGKILL, all=True)
            await task.wait()


async def _delete(task: Task, *, force: bool) -> Exit | None:
    try:
        async with asyncio.timeout(_DEATH_LIMIT_S if force else None):
            return await task.delete()
    except NotFound:
        return None
    except (DunnageError, TimeoutError) as error:
        if not force or isinstance(error, ConnectionBroken):
            raise
        _log.debug("%s: delete: %s", task.bundle.id, error)
        return None


async def _shut_down(task: Task, shim: Shim, *, force: bool, drop_unread: bool) -> None:
    try:
        pid = await task.shim_pid()
        # Before it leaves: afterwards nothing would prove who it was.
        proven_fd = maybe_peer(task.fileno(), pid)
        # Anybody may be waited for.
        shim_fd = os.pidfd_open(pid) if proven_fd is None else proven_fd
    except (DunnageError, OSError, OverflowError) as error:
        _log.debug("%s: the shim is gone: %s", task.bundle.id, error)
        return
    try:
        try:
            await task.shutdown()
        except DunnageError as error:
            # A shim may be gone before its answer is out.
            _log.debug("%s: shutdown: %s", task.bundle.id, error)
        if await _is_seen_off(shim_fd, task.bundle, shim):
            return
        if drop_unread or (force and await _is_serving(task.bundle, shim)):
            if proven_fd is not None:
                signal.pidfd_send_signal(proven_fd, signal.SIGKILL)
                if await _is_gone(proven_fd, _LEAVE_LIMIT_S):
                    return
            else:
                _log.warning("%s: nothing proves which process it is", task.bundle.id)
        _log.warning("%s: its shim is still there", task.bundle.id)
    finally:
        os.close(shim_fd)


def _is_shared(bundle: Bundle, shim: Shim) -> bool:
    """Tell whether another bundle names the same shim, which then stays."""
    mine = endpoint.read(str(bundle.path))
    for other in bundles.list_all(shim.places):
        with suppress(DunnageError, OSError):
            if other.id != bundle.id and endpoint.read(str(other.path)) == mine:
                return True
    return False


async def _is_seen_off(shim_fd: int, bundle: Bundle, shim: Shim) -> bool:
    """Wait until the shim's process is gone, if it is not to stay for another.

    Not to be tidy: a shim that still leaves would meet, and unlink the socket of, a
    successor with the same id.
    """
    limit = asyncio.get_running_loop().time() + _LEAVE_LIMIT_S
    while asyncio.get_running_loop().time() < limit:
        # Each time: one that joins has no address in its bundle until it has joined.
        if _is_shared(bundle, shim) or await _is_gone(shim_fd, _LOOK_S):
            return True
    return False


async def _is_serving(bundle: Bundle, shim: Shim) -> bool:
    """Tell whether a shim that was asked to leave does not even begin to."""
    with suppress(DunnageError):
        return await presence(bundle, shim.places.namespace) is Presence.SERVING
    return True


async def _is_dead(bundle: Bundle, shim: Shim) -> bool:
    """Tell whether nothing more can come from the shim."""
    namespace = shim.places.namespace
    with suppress(DunnageError):
        found = await presence(bundle, namespace)
        if found is Presence.LEAVING:
            return await gone(bundle, namespace, limit_s=_MOMENT_S)
        return found is Presence.GONE
    return False


async def _is_gone(process_fd: int, limit_s: float) -> bool:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def note() -> None:
        loop.remove_reader(process_fd)
        ended.set_result(None)

    loop.add_reader(process_fd, note)
    try:
        await asyncio.wait([ended], timeout=limit_s)
    finally:
        loop.remove_reader(process_fd)
    return ended.done()


async def _maybe_clean_up(shim: Shim, bundle: Bundle) -> Exit | None:
    """Run the binary's `delete`, as the daemon does after every task."""
    try:
        deleted = await shim.delete(bundle)
    except DunnageError as error:
        _log.debug("%s: %s", bundle.id, error.message)
        return None
    return Exit(deleted.pid, deleted.exit_status, deleted.exited_at_ns)
