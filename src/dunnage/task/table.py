"""Which operation is legal in which state, and the refusal otherwise.

The texts are those of containerd's runc shim (its ``process/init_state.go`` and
``exec_state.go``): clients match on some of them.
Whatever is in no row is refused as a state that nobody should ever see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from dunnage.errors import DunnageError, FailedPrecondition, NotFound, Unknown

from .states import Operation as Op
from .states import State

Verdict: TypeAlias = DunnageError | None
"""None: legal."""
_Rows: TypeAlias = Mapping[Op, Mapping[State, tuple[type[DunnageError], str] | None]]

_LEGAL: Final = None


def _no(text: str) -> tuple[type[DunnageError], str]:
    return (Unknown, text)


def _gone(verb: str) -> tuple[type[DunnageError], str]:
    return (NotFound, f"cannot {verb} a deleted process")


INIT: Final[_Rows] = {
    Op.START: {
        State.CREATED: _LEGAL,
        State.RESTORABLE: _LEGAL,
        State.RUNNING: _no("cannot start a running process"),
        State.PAUSED: _no("cannot start a paused process"),
        State.STOPPED: _no("cannot start a stopped process"),
        State.DELETED: _no("cannot start a deleted process"),
    },
    Op.DELETE: {
        State.CREATED: _LEGAL,
        State.RESTORABLE: _LEGAL,
        State.RUNNING: _no("cannot delete a running process"),
        State.PAUSED: _no("cannot delete a paused process"),
        State.STOPPED: _LEGAL,
        State.DELETED: _gone("delete"),
    },
    Op.PAUSE: {
        State.CREATED: _no("cannot pause task in created state"),
        State.RESTORABLE: _no("cannot pause task in created state"),
        State.RUNNING: _LEGAL,
        State.PAUSED: _no("cannot pause a paused container"),
        State.STOPPED: _no("cannot pause a stopped container"),
        State.DELETED: _no("cannot pause a deleted process"),
    },
    Op.RESUME: {
        State.CREATED: _no("cannot resume task in created state"),
        State.RESTORABLE: _no("cannot resume task in created state"),
        State.RUNNING: _no("cannot resume a running process"),
        State.PAUSED: _LEGAL,
        State.STOPPED: _no("cannot resume a stopped container"),
        State.DELETED: _no("cannot resume a deleted process"),
    },
    Op.CHECKPOINT: {
        State.CREATED: _no("cannot checkpoint a task in created state"),
        State.RESTORABLE: _no("cannot checkpoint a task in created state"),
        State.RUNNING: _LEGAL,
        State.PAUSED: _LEGAL,
        State.STOPPED: _no("cannot checkpoint a stopped container"),
        State.DELETED: _no("cannot checkpoint a deleted process"),
    },
    Op.UPDATE: {
        State.CREATED: _LEGAL,
        State.RESTORABLE: _LEGAL,
        State.RUNNING: _LEGAL,
        State.PAUSED: _LEGAL,
        State.STOPPED: _no("cannot update a stopped container"),
        State.DELETED: _no("cannot update a deleted process"),
    },
    Op.EXEC: {
        State.CREATED: _LEGAL,
        State.RESTORABLE: _no("cannot exec in a created state"),
        State.RUNNING: _LEGAL,
        State.PAUSED: _no("cannot exec in a paused state"),
        State.STOPPED: _no("cannot exec in a stopped state"),
        State.DELETED: _no("cannot exec in a deleted state"),
    },
    # A stopped init is still signalled: others of its container may live, and the
    # runtime knows; it answers that the process has finished where none does.
    Op.KILL: {
        State.CREATED: _LEGAL,
        State.RESTORABLE: _LEGAL,
        State.RUNNING: _LEGAL,
        State.PAUSED: _LEGAL,
        State.STOPPED: _LEGAL,
        State.DELETED: _gone("kill"),
    },
    Op.RESIZE: {
        State.CREATED: _LEGAL,
        State.RESTORABLE: _LEGAL,
        State.RUNNING: _LEGAL,
        State.PAUSED: _LEGAL,
        State.STOPPED: _LEGAL,
        State.DELETED: _no("cannot resize a deleted process"),
    },
}

EXEC: Final[_Rows] = {
    # The Go shim panics on the second start of an exec whose first one failed.
    Op.START: {
        State.CREATED: _LEGAL,
        State.FAILED: _no("cannot start a process that failed to start"),
        State.RUNNING: _no("cannot start a running process"),
        State.STOPPED: _no("cannot start a stopped process"),
    },
    Op.DELETE: {
        State.CREATED: _LEGAL,
        State.FAILED: _LEGAL,
        State.RUNNING: _no("cannot delete a running process"),
        State.STOPPED: _LEGAL,
    },
    Op.KILL: {
        State.CREATED: (FailedPrecondition, "process not created"),
        State.FAILED: (FailedPrecondition, "process not created"),
        State.RUNNING: _LEGAL,
        State.STOPPED: (NotFound, "process already finished"),
    },
    Op.RESIZE: {
        State.CREATED: _LEGAL,
        State.FAILED: _LEGAL,
        State.RUNNING: _LEGAL,
        State.STOPPED: _no("cannot resize a stopped container"),
    },
}


def verdict(operation: Op, state: State, *, is_exec: bool) -> Verdict:
    """Say whether ``operation`` is legal in ``state``: None, or what to raise."""
    rows = EXEC if is_exec else INIT
    row = rows.get(operation, {})
    if state not in row:
        return FailedPrecondition(f"cannot {operation} a process in state {state}")
    refusal = row[state]
    if refusal is None:
        return None
    kind, text = refusal
    return kind(text)
