"""The words of the lifecycle: states, operations, and what is known of an exit."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where a process, init or exec, is in its life.

    The walk of a process: ``coming → created → running → stopped → deleted``, for init
    with ``paused`` beside ``running``; any of the first three can be cut short.
    """

    COMING = "coming"
    """Its create, or for an exec its add, is in flight: nobody else may know of it."""
    CREATED = "created"
    RESTORABLE = "restorable"
    """Init, created from a checkpoint: there is no process before its start."""
    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"
    """An exec whose start failed: it never lived, and only delete is left for it."""
    STOPPED = "stopped"
    DELETED = "deleted"


class Operation(StrEnum):
    """What can be asked of a process; the first seven take time and change it."""

    CREATE = "create"
    START = "start"
    ADD = "add"
    PAUSE = "pause"
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    DELETE = "delete"
    EXEC = "exec"
    """Of init: may an exec be added to it?"""
    UPDATE = "update"
    KILL = "kill"
    RESIZE = "resize"


class Status(StrEnum):
    """What State answers: containerd's task status."""

    UNKNOWN = "unknown"
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    PAUSING = "pausing"


class Exit(NamedTuple):
    """How a process ended: 0–255, or 128 + signal; noticed when, ns since the epoch."""

    status: int
    at_ns: int


class Snapshot(NamedTuple):
    """A process as State, Delete and Wait report it.

    ``exit`` is None until the exit was said; it is then what the event said.
    """

    status: Status
    pid: int
    exit: Exit | None
