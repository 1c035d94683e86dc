"""Events as text.

Owns: how an event and its time are written, for people and as JSON.
Must not know: where events come from.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError, Message

from dunnage.api import events_pb2, times
from dunnage.descriptors import Timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dunnage.manager.eventlog import Record

_SECOND_NS: Final = 1_000_000_000
_PACKAGE: Final = "containerd.events."

# What tells one process from another, and what became of it.
_MAIN: Final = ("id", "exec_id", "pid", "exit_status")


def as_text(record: Record) -> str:
    """Return the line for an event: time, topic, fields."""
    return (
        f"{when(record.timestamp_ns)} {record.topic:<19} {_in_words(record)}".rstrip()
    )


def as_json(record: Record) -> str:
    """Return the JSON object for an event, in one line."""
    return json.dumps(
        {
            "timestamp": when(record.timestamp_ns),
            "namespace": record.namespace,
            "topic": record.topic,
            "type": record.type_url,
            "event": fields(record),
        }
    )


def timeline(records: Sequence[Record]) -> list[str]:
    """Return a line per event: time, time since the first one, topic, main fields."""
    return [
        f"{when(record.timestamp_ns)}  {_seconds_between(records[0], record):9.6f} s  "
        f"{record.topic:<19} {_in_words(record, _MAIN)}".rstrip()
        for record in records
    ]


def fields(record: Record) -> dict[str, Any]:
    """Return the fields of an event that are set; of one we do not know, nothing."""
    name = record.type_url.rpartition("/")[2].removeprefix(_PACKAGE)
    kind = getattr(events_pb2, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Message)):
        return {}
    try:
        return _plain(kind.FromString(record.value))
    except DecodeError:
        return {}


def when(at_ns: int) -> str:
    """Return a time as ISO 8601 in UTC, with microseconds."""
    seconds, nanos = divmod(at_ns, _SECOND_NS)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _seconds_between(first: Record, second: Record) -> float:
    return (second.timestamp_ns - first.timestamp_ns) / _SECOND_NS


def _in_words(record: Record, names: Sequence[str] | None = None) -> str:
    return " ".join(
        f"{key}={value if isinstance(value, str | int) else json.dumps(value)}"
        for key, value in fields(record).items()
        if names is None or key in names
    )


def _plain(message: Message) -> dict[str, Any]:
    """Return a message as a dictionary; a zero exit status is worth saying, too."""
    found = {field.name: _value(value) for field, value in message.ListFields()}
    if "exit_status" in message.DESCRIPTOR.fields_by_name:
        found.setdefault("exit_status", 0)
    return {
        name: found[name]
        for name in message.DESCRIPTOR.fields_by_name
        if found.get(name) is not None
    }


def _value(value: Any) -> Any:
    if isinstance(value, Timestamp):
        at_ns = times.nanoseconds(value)
        return None if at_ns is None else when(at_ns)
    if isinstance(value, Message):
        return _plain(value)
    if isinstance(value, str | bytes | int | float):
        return value
    return [_value(item) for item in value]
