"""Being there while a process runs: its streams, our signals, its exit.

Owns: the order in which these end.
Must not know: whether it is init or an exec.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from dunnage.errors import DunnageError

from . import show
from .terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from dunnage.manager.client import Exit, Task
    from dunnage.manager.eventlog import Reader, Record
    from dunnage.manager.inbox import Inbox

    from .signals import Forwarding
    from .streams import Streams

# An event leaves the shim right after what it tells was done.
_EVENT_LIMIT_S: Final = 3.0


async def attend(
    task: Task, streams: Streams, signals: Forwarding, exec_id: str = ""
) -> Exit:
    """Attend a process that was started until it, and its output, have ended.

    If it has a terminal, ours is lent to it meanwhile.

    Cancelling it leaves the process running.
    """

    async def close_input() -> None:
        with suppress(DunnageError):
            await task.close_io(exec_id)

    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []
    with ExitStack() as stack:
        if streams.stdio.terminal:
            stack.enter_context(
                Terminal(
                    lambda width, height: task.resize(width, height, exec_id),
                    is_interactive=bool(streams.stdio.stdin),
                )
            )
        streams.begin_input(lambda: closing.append(loop.create_task(close_input())))
        signals.begin(lambda number: task.kill(number, exec_id))
        try:
            exit_ = await task.wait(exec_id)
        finally:
            signals.end()
        await streams.drained()
    for task_ in closing:
        task_.cancel()
    return exit_


async def heard(
    inbox: Inbox, reader: Reader, topic: str, container_id: str, process_id: str = ""
) -> None:
    """Wait until the log has an event of a task, or of one process of it.

    There is a limit to it: a shim may have lost the event, or be a stranger to it.
    Cancelling it stops the wait only.
    """
    await inbox.wait_for(
        reader,
        _matcher(topic, container_id, process_id or container_id),
        limit_s=_EVENT_LIMIT_S,
    )


def is_of(record: Record, container_id: str) -> bool:
    """Tell whether an event is a task's."""
    return show.fields(record).get("container_id") == container_id


def _matcher(
    topic: str, container_id: str, process_id: str
) -> Callable[[Record], bool]:
    def matches(record: Record) -> bool:
        if record.topic != topic or not is_of(record, container_id):
            return False
        said = show.fields(record)
        # Init is called by the container's id, or not at all.
        return (said.get("exec_id") or said.get("id") or container_id) == process_id

    return matches
