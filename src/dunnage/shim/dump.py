"""What the shim tells about itself on SIGUSR1: everything that may be stuck.

Owns: the records of the dump.
Must not know: how any of it came about; it reads, and changes nothing.

Only file, line and function are told of a stack: the sources may be gone or newer than
what runs, and reading them would import.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from dunnage.task.machine import INIT

from .calls import Calls
from .entry import Entry

_log = logging.getLogger(__name__)


def dump(entries: Iterable[Entry], calls: Calls, backlog: str) -> None:
    """Log every task's state, what is under way, the backlog, and all stacks."""
    for entry in entries:
        for line in _processes(entry):
            _log.info("dump: %s", line, extra={"container": entry.id})
    for text, since_s in calls:
        _log.info("dump: %s for %.1f s", text, since_s)
    _log.info("dump: %s", backlog)
    for task in asyncio.all_tasks():
        _log.info("dump: coroutine %s", " > ".join(_stack(task.get_coro())))
    _log.info("dump: end")


def _processes(entry: Entry) -> Iterator[str]:
    """Yield a line about init, and one about each exec."""
    task = entry.task
    for exec_id in (INIT, *task.exec_ids):
        snapshot = task.snapshot(exec_id)
        line = f"{f'exec {exec_id}' if exec_id else 'init'} is {snapshot.status}"
        line += f", pid {snapshot.pid}"
        if snapshot.exit:
            line += f", exit status {snapshot.exit.status}"
        elif not exec_id and task.init_is_dead:
            line += ", dead, its exit is not said yet"
        if operation := task.operation_in_flight(exec_id):
            line += f", {operation} in flight"
        yield line


def _stack(waiting: Any) -> Iterator[str]:
    """Yield where a coroutine is, and where that which it waits for is, and so on."""
    while frame := getattr(waiting, "cr_frame", None):
        code = frame.f_code
        file = code.co_filename.rpartition("/")[2]
        yield f"{code.co_qualname} ({file}:{frame.f_lineno})"
        waiting = waiting.cr_await
