"""When a shim that nobody ever used may leave.

A daemon that dies between ``start`` and Create leaves a shim that no daemon knows of:
nothing would ever end it.
A daemon that lives stays connected from ``start`` on, however long it is paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dunnage.ttrpc.aio.server import Server


async def unwanted(
    server: Server, has_had_task: Callable[[], bool], limit_s: float
) -> bool:
    """Wait until nobody has been connected for ``limit_s``; False if ever a task was.

    Cancelling it is harmless.
    """
    loop = asyncio.get_running_loop()
    while not has_had_task():
        since = server.idle_since
        left_s = limit_s if since is None else since + limit_s - loop.time()
        if left_s <= 0:
            return True
        await asyncio.sleep(left_s)
    return False
