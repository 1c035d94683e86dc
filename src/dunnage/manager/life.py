"""What the event log says of one life of a container.

Owns: which events are of this life, as ids are used again; the events that a manager
says in a dead shim's place.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError

from dunnage.api import times
from dunnage.api.events_pb2 import TaskCreate, TaskDelete, TaskExit
from dunnage.api.topics import TOPICS
from dunnage.bootstrap import bundle as files

from .client import Exit
from .eventlog import Reader, Record

if TYPE_CHECKING:
    from .bundles import Bundle
    from .places import Places


class Life(NamedTuple):
    """What was said of a task's life so far."""

    is_created: bool
    exit: Exit | None
    is_deleted: bool


class Born(NamedTuple):
    """When a life began.

    It takes both to tell its events: one of an earlier life may come to the log late,
    and may have been said by a later clock, if a reboot has set that back.
    """

    at_ns: int = 0
    log_bytes: int = 0
    """How long the log was."""


def born(bundle: Bundle) -> Born:
    """Return when a bundle was made, as far as it tells."""
    at_ns = log_bytes = 0
    with contextlib.suppress(OSError):
        # Of all its files the one that nobody writes to later.
        at_ns = (bundle.path / files.WORK).lstat().st_mtime_ns
    with contextlib.suppress(OSError, ValueError):
        log_bytes = int(files.read(str(bundle.path), files.BORN) or 0)
    return Born(at_ns, log_bytes)


def read(places: Places, container_id: str, born: Born) -> Life:
    """Return what the log says of a task that was made at a time."""
    created, exit_, deleted = False, None, False
    for record in Reader(places.event_log, born.log_bytes).read():
        if record.timestamp_ns < born.at_ns:
            continue
        message = _message(record)
        if message is None or message.container_id != container_id:
            continue
        if isinstance(message, TaskCreate):
            created = True
        elif message.id not in {"", container_id}:
            continue
        elif isinstance(message, TaskExit):
            at_ns = times.nanoseconds(message.exited_at)
            exit_ = Exit(message.pid, message.exit_status, at_ns)
        else:
            deleted = True
    return Life(created, exit_, deleted)


def exit_event(places: Places, container_id: str, exit_: Exit) -> Record:
    """Return the event of init's exit."""
    message = TaskExit(
        container_id=container_id,
        id=container_id,
        pid=exit_.pid,
        exit_status=exit_.status,
        exited_at=times.timestamp(exit_.at_ns),
    )
    return _record(places, message)


def delete_event(places: Places, container_id: str, exit_: Exit) -> Record:
    """Return the event of a task's removal."""
    message = TaskDelete(
        container_id=container_id,
        pid=exit_.pid,
        exit_status=exit_.status,
        exited_at=times.timestamp(exit_.at_ns),
    )
    return _record(places, message)


def _record(places: Places, message: TaskExit | TaskDelete) -> Record:
    type_url = message.DESCRIPTOR.full_name
    value = message.SerializeToString()
    topic = TOPICS[type_url]
    return Record(time.time_ns(), places.namespace, topic, type_url, value)


def _message(record: Record) -> TaskCreate | TaskExit | TaskDelete | None:
    for kind in (TaskCreate, TaskExit, TaskDelete):
        if record.type_url.rpartition("/")[2] == kind.DESCRIPTOR.full_name:
            try:
                return kind.FromString(record.value)
            except DecodeError:
                return None
    return None
