"""Whether a shim is there: its process and its socket tell, together.

A shim that leaves has withdrawn its socket, yet lives on, for minutes perhaps, to say
events and to hold unread output: it is not dead, and nobody may speak for it.

Owns: the note in the bundle of which process the shim is.
Must not know: what follows from it.

Invariant (proven-shim): only a process that had the other end of our connection is
    noted; without such a note the socket alone tells, as it does for containerd, and
    nothing is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from dunnage.bootstrap import bundle as files
from dunnage.errors import ConnectionBroken, DunnageError
from dunnage.host.procs.identity import Identity
from dunnage.host.procs.peer import maybe_peer

from .client import Task

if TYPE_CHECKING:
    from .bundles import Bundle

_log: Final = logging.getLogger("dunnage.manager")

_NOBODY_LISTENS: Final = (errno.ENOENT, errno.ECONNREFUSED)
_LOOK_S: Final = 0.05
# Of one that dies, a connection may end before its listener does.
_MOMENT_S: Final = 1.0


class Presence(Enum):
    """How much of a shim is there."""

    SERVING = auto()
    LEAVING = auto()
    """It lives, and nobody can call it any more."""
    GONE = auto()


def was_started(bundle: Bundle) -> bool:
    """Tell whether a task's shim was started, or was about to be."""
    return (bundle.path / files.SHIM_BINARY_PATH).exists()


async def note(task: Task) -> None:
    """Note which process the shim is, if it can be proven.

    Raises:
        ConnectionBroken: it is gone.
        OSError: the note cannot be written.
    """
    try:
        pid = await task.shim_pid()
    except ConnectionBroken:
        raise
    except DunnageError as error:
        _log.debug("%s: the shim does not say its pid: %s", task.bundle.id, error)
        return
    identity = _proven(task, pid)
    if identity is None:
        _log.debug("%s: nothing proves that process %d is it", task.bundle.id, pid)
        return
    files.write(str(task.bundle.path), files.SHIM, json.dumps(identity._asdict()))


def _proven(task: Task, pid: int) -> Identity | None:
    try:
        identity = Identity.of(pid)
    except OSError:
        return None
    process_fd = maybe_peer(task.fileno(), pid)
    if process_fd is None:
        return None
    os.close(process_fd)
    # The same before and after: what was proven was proven of it.
    return identity if identity.is_alive() else None


def noted(bundle: Bundle) -> Identity | None:
    """Return which process the shim is or was; None if nobody could note it."""
    try:
        found = Identity(**json.loads(files.read(str(bundle.path), files.SHIM) or ""))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return found if [type(it) for it in found] == [int, int, str] else None


async def presence(bundle: Bundle, namespace: str) -> Presence:
    """Tell how much of a task's shim is there.

    Raises:
        DunnageError: the bundle's words make no sense, or the shim is too busy to say.
    """
    known = noted(bundle)
    # Not by the socket: in a pod, a successor may have it.
    if known is not None and not known.is_alive():
        return Presence.GONE
    try:
        task = await Task.connect(bundle, namespace)
    except ConnectionBroken as error:
        cause = error.__cause__
        if cause is not None and not (
            isinstance(cause, OSError) and cause.errno in _NOBODY_LISTENS
        ):
            return Presence.SERVING
        return Presence.GONE if known is None else Presence.LEAVING
    task.close()
    return Presence.SERVING


async def gone(bundle: Bundle, namespace: str, *, limit_s: float) -> bool:
    """Wait until a shim that leaves is gone; tell whether it is.

    Somebody must receive events meanwhile, or it waits for that.
    One that serves is not waited for.
    Cancelling it stops the wait only.

    Raises:
        DunnageError: as `presence`.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    serving_limit_s = min(limit_s, _MOMENT_S)
    while (found := await presence(bundle, namespace)) is not Presence.GONE:
        limit = limit_s if found is Presence.LEAVING else serving_limit_s
        if loop.time() - begun >= limit:
            return False
        await asyncio.sleep(_LOOK_S)
    return True


def kill_noted(bundle: Bundle) -> None:
    """SIGKILL the process that is noted as the shim, if it is that still."""
    known = noted(bundle)
    if known is None:
        return
    try:
        process_fd = os.pidfd_open(known.pid)
    except (OSError, OverflowError):
        return
    try:
        # With the pidfd in hand, the pid cannot become another's unseen.
        if known.is_alive():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process_fd, signal.SIGKILL)
    finally:
        os.close(process_fd)
