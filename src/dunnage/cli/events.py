"""``dunnage events``: the log, and what comes.

Owns: what is printed of it.
Must not know: how an event looks.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing
from typing import TYPE_CHECKING

from dunnage.manager.eventlog import Reader
from dunnage.manager.inbox import Inbox

from . import show

if TYPE_CHECKING:
    from .context import Context


async def events(context: Context, *, follow: bool, as_json: bool) -> int:
    """Print the events so far, and with ``follow`` those to come, until interrupted."""
    write = show.as_json if as_json else show.as_text
    reader = Reader(context.places.event_log)
    for record in reader.read():
        print(write(record), flush=True)
    if follow:
        _cancel_on_sigterm()
        async with (
            Inbox(context.places) as inbox,
            aclosing(inbox.follow(reader)) as records,
        ):
            async for record in records:
                print(write(record), flush=True)
    return 0


def _cancel_on_sigterm() -> None:
    """Leave by the door: the next receiver should find no socket of ours."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
