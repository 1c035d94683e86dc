"""Bytes of an envelope → `Said`, by a reader of protobuf's wire format of its own.

Shares nothing with the shim's encoder, not even the library: a field that both got
wrong the same way would go unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from dunnage.errors import DataLoss

from .said import Kind, Said

_Fields: TypeAlias = Mapping[int, "int | bytes"]

_PACKAGE: Final = "containerd.events."

# Of each message: its kind, and the numbers of the fields that matter, by their names.
_MESSAGES: Final[Mapping[str, tuple[Kind, Mapping[str, int]]]] = {
    "TaskCreate": (Kind.CREATE, {"pid": 6}),
    "TaskStart": (Kind.START, {"pid": 2}),
    "TaskDelete": (
        Kind.DELETE,
        {"pid": 2, "exit_status": 3, "exited_at": 4, "id": 5},
    ),
    "TaskExit": (Kind.EXIT, {"id": 2, "pid": 3, "exit_status": 4, "exited_at": 5}),
    "TaskOOM": (Kind.OOM, {}),
    "TaskExecAdded": (Kind.EXEC_ADDED, {"id": 2}),
    "TaskExecStarted": (Kind.EXEC_STARTED, {"id": 2, "pid": 3}),
    "TaskPaused": (Kind.PAUSED, {}),
    "TaskResumed": (Kind.RESUMED, {}),
    "TaskCheckpointed": (Kind.CHECKPOINTED, {}),
}

_VARINT: Final = 0
_BYTES: Final = 2
_FIXED: Final = {1: 8, 5: 4}
_ZERO_SECONDS: Final = -62135596800
"""The zero of Go's time, year 1: "there is no such time"."""


def decode(envelope: bytes) -> Said:
    """Return what an envelope says.

    Raises:
        DataLoss: it is no envelope, or holds no event of a task.
    """
    outer = _fields(envelope)
    packed = _fields(_bytes(outer, 4))
    # Whatever stands before the last slash counts for nothing, as for containerd.
    name = _text(packed, 1).rpartition("/")[2]
    known = _MESSAGES.get(name.removeprefix(_PACKAGE))
    if not name.startswith(_PACKAGE) or known is None:
        raise DataLoss(f"no event of a task: {name!r}")
    kind, numbers = known
    inner = _fields(_bytes(packed, 2))
    return Said(
        kind,
        container_id=_text(inner, 1),
        id=_text(inner, numbers.get("id", 0)),
        pid=_number(inner, numbers.get("pid", 0)),
        exit_status=_number(inner, numbers.get("exit_status", 0)),
        exited_at_ns=_time(inner, numbers.get("exited_at", 0)),
        topic=_text(outer, 3),
        namespace=_text(outer, 2),
        at_ns=_time(outer, 1),
    )


def _fields(data: bytes) -> _Fields:
    """Return the fields of a message by number; of a repeated one the last."""
    fields: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            fields[number], at = _varint(data, at)
            continue
        if wire_type == _BYTES:
            length, at = _varint(data, at)
        elif wire_type in _FIXED:
            length = _FIXED[wire_type]
        else:
            raise DataLoss(f"wire type {wire_type} of field {number}")
        if at + length > len(data):
            raise DataLoss(f"field {number} is cut off")
        fields[number] = data[at : at + length]
        at += length
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise DataLoss("a number is cut off or too long")


def _bytes(fields: _Fields, number: int) -> bytes:
    value = fields.get(number, b"")
    if not isinstance(value, bytes):
        raise DataLoss(f"field {number} is a number")
    return value


def _text(fields: _Fields, number: int) -> str:
    return _bytes(fields, number).decode(errors="replace")


def _number(fields: _Fields, number: int) -> int:
    value = fields.get(number, 0)
    if not isinstance(value, int):
        raise DataLoss(f"field {number} is no number")
    return value


def _time(fields: _Fields, number: int) -> int | None:
    if number not in fields:
        return None
    parts = _fields(_bytes(fields, number))
    seconds = _number(parts, 1)
    if seconds >= 1 << 63:
        seconds -= 1 << 64
    if seconds == _ZERO_SECONDS:
        return None
    return seconds * 1_000_000_000 + _number(parts, 2)
