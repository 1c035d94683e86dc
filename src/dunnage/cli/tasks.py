"""``dunnage ps``, ``kill``, ``pause``, ``resume``, ``rm``: tasks, and what to do.

Owns: what is said of a task, and what is refused.
Must not know: how a task is removed.
"""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final

from dunnage.api import process_pb2 as api
from dunnage.errors import ConnectionBroken, DunnageError, FailedPrecondition, NotFound
from dunnage.manager import bundles
from dunnage.manager.burial import bury
from dunnage.manager.client import Task
from dunnage.manager.dead import bury_dead, reload
from dunnage.manager.inbox import Inbox
from dunnage.manager.presence import Presence, presence, was_started

from .signals import parse

if TYPE_CHECKING:
    from dunnage.api.task_v2_pb2 import StateResponse
    from dunnage.manager.bundles import Bundle

    from .context import Context

_log: Final = logging.getLogger("dunnage.cli")

_HEADINGS: Final = ("NAME", "PID", "STATUS", "SHIM")
_DEAD: Final = "dead"
_LEAVING: Final = "leaving"


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    pid: str
    status: str
    shim: str


async def ps(context: Context) -> int:
    """Print a line for each task; what dead shims have left is removed first."""
    exits = await reload(context.places, debug=context.debug)
    for name, exit_ in exits.items():
        _log.warning("the shim of %s has died; it ended with %d", name, exit_.status)
    rows = [await _row(context, bundle) for bundle in bundles.list_all(context.places)]
    table = [_HEADINGS, *(astuple(row) for row in rows)]
    widths = [
        max(len(row[column]) for row in table) for column in range(len(_HEADINGS))
    ]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


async def kill(context: Context, name: str, signal_text: str) -> int:
    """Send a signal to a container's init."""
    number = parse(signal_text)
    task = await context.connect(bundles.find(context.places, name))
    try:
        await task.kill(number)
    finally:
        task.close()
    return 0


async def pause(context: Context, name: str) -> int:
    """Freeze a container."""
    task = await context.connect(bundles.find(context.places, name))
    try:
        await task.pause()
    finally:
        task.close()
    return 0


async def resume(context: Context, name: str) -> int:
    """Thaw a container."""
    task = await context.connect(bundles.find(context.places, name))
    try:
        await task.resume()
    finally:
        task.close()
    return 0


async def rm(context: Context, name: str, *, force: bool) -> int:
    """Remove a task that has stopped; with ``force``, whatever it does."""
    bundle = bundles.find(context.places, name)
    async with Inbox(context.places) as inbox:
        try:
            if await _is_left(context, bundle):
                await bury_dead(context.shim_of(bundle), bundle, inbox, force=force)
                return 0
            task = await context.connect(bundle)
        except DunnageError:
            if not force:
                raise
            task = None
        if task is not None and not force:
            try:
                await _expect_removable(task)
            except BaseException:
                task.close()
                raise
        shim = context.shim_of(bundle)
        await bury(shim, bundle, task, inbox, force=force, drop_unread=force)
    return 0


async def _is_left(context: Context, bundle: Bundle) -> bool:
    """Tell whether a task has a shim no more that could be called."""
    if not was_started(bundle):
        return False
    found = await presence(bundle, context.places.namespace)
    return found is not Presence.SERVING


async def _expect_removable(task: Task) -> None:
    try:
        status = (await task.state()).status
    except (NotFound, ConnectionBroken):
        # Its creation was cut short, or its removal; or its shim dies just now.
        return
    if status not in {api.STOPPED, api.CREATED}:
        name = task.bundle.id
        raise FailedPrecondition(
            f"{name} is {_word(status)}: stop it first (dunnage kill {name}), "
            f"or remove it all the same with: dunnage rm -f {name}"
        )


async def _row(context: Context, bundle: Bundle) -> _Row:
    shim = "-"
    try:
        shim = context.shim_of(bundle).binary.name
        task = await Task.connect(bundle, context.places.namespace)
        try:
            state = await task.state()
        finally:
            task.close()
    except (ConnectionBroken, NotFound):
        is_leaving = (
            await presence(bundle, context.places.namespace) is Presence.LEAVING
        )
        return _Row(bundle.id, "-", _LEAVING if is_leaving else _DEAD, shim)
    except DunnageError as error:
        return _Row(bundle.id, "-", f"unknown ({error.message})", shim)
    return _Row(bundle.id, str(state.pid), _status(state), shim)


def _status(state: StateResponse) -> str:
    word = _word(state.status)
    return f"{word} ({state.exit_status})" if state.status == api.STOPPED else word


def _word(status: api.Status.ValueType) -> str:
    return api.Status.Name(status).lower()
