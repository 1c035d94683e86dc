"""``dunnage events``: the log, and what comes.

Owns: what is printed of it.
Must not know: how an event looks.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

from dunnage.manager.dead import reload
from dunnage.manager.eventlog import Reader
from dunnage.manager.inbox import Inbox

from . import show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .context import Context

# A connection that is refused costs little.
_WATCH_S: Final = 1.0


async def events(context: Context, *, follow: bool, as_json: bool) -> int:
    """Print the events so far, and with ``follow`` those to come, until interrupted."""
    write = show.as_json if as_json else show.as_text
    await reload(context.places, debug=context.debug)
    reader = Reader(context.places.event_log)
    for record in reader.read():
        print(write(record), flush=True)
    if follow:
        _cancel_on_sigterm()
        async with (
            Inbox(context.places) as inbox,
            _watching(context, inbox),
            aclosing(inbox.follow(reader)) as records,
        ):
            async for record in records:
                print(write(record), flush=True)
    return 0


@asynccontextmanager
async def _watching(context: Context, inbox: Inbox) -> AsyncIterator[None]:
    """Speak for the shims that die while the block runs."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            await reload(context.places, debug=context.debug, inbox=inbox)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


def _cancel_on_sigterm() -> None:
    """Leave by the door: the next receiver should find no socket of ours."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
