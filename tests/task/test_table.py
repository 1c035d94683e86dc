"""The refusals, code and text, against the reference's table."""

from __future__ import annotations

import pytest

from dunnage.task import table
from dunnage.task.states import Operation as Op
from dunnage.task.states import State

# Of containerd 1.6's process/init_state.go and exec_state.go, seen from outside.
REFUSALS = [
    (Op.START, State.RUNNING, False, 2, "cannot start a running process"),
    (Op.START, State.PAUSED, False, 2, "cannot start a paused process"),
    (Op.START, State.STOPPED, False, 2, "cannot start a stopped process"),
    (Op.DELETE, State.RUNNING, False, 2, "cannot delete a running process"),
    (Op.DELETE, State.PAUSED, False, 2, "cannot delete a paused process"),
    (Op.DELETE, State.DELETED, False, 5, "cannot delete a deleted process: not found"),
    (Op.PAUSE, State.CREATED, False, 2, "cannot pause task in created state"),
    (Op.RESUME, State.RUNNING, False, 2, "cannot resume a running process"),
    (Op.CHECKPOINT, State.STOPPED, False, 2, "cannot checkpoint a stopped container"),
    (Op.UPDATE, State.STOPPED, False, 2, "cannot update a stopped container"),
    (Op.EXEC, State.PAUSED, False, 2, "cannot exec in a paused state"),
    (Op.EXEC, State.STOPPED, False, 2, "cannot exec in a stopped state"),
    (Op.KILL, State.DELETED, False, 5, "cannot kill a deleted process: not found"),
    (Op.START, State.RUNNING, True, 2, "cannot start a running process"),
    (Op.START, State.STOPPED, True, 2, "cannot start a stopped process"),
    (Op.DELETE, State.RUNNING, True, 2, "cannot delete a running process"),
    (Op.KILL, State.CREATED, True, 9, "process not created: failed precondition"),
    (Op.KILL, State.STOPPED, True, 5, "process already finished: not found"),
    (Op.RESIZE, State.STOPPED, True, 2, "cannot resize a stopped container"),
]


@pytest.mark.parametrize(("op", "state", "is_exec", "code", "text"), REFUSALS)
def test_refusals_are_those_of_the_reference(
    op: Op, state: State, is_exec: bool, code: int, text: str
) -> None:
    """What the Go shim refuses is refused with its code and its text."""
    refusal = table.verdict(op, state, is_exec=is_exec)

    assert refusal is not None
    assert (code, text) == (refusal.code, refusal.wire_text)


# The same of what is admitted; a letter is a state, in the order of its life.
_STATES = {
    "c": State.CREATED,
    "r": State.RESTORABLE,
    "R": State.RUNNING,
    "P": State.PAUSED,
    "f": State.FAILED,
    "S": State.STOPPED,
    "D": State.DELETED,
}
ADMITTED = [
    (Op.START, "cr", "c"),
    (Op.DELETE, "crS", "cfS"),
    (Op.PAUSE, "R", ""),
    (Op.RESUME, "P", ""),
    (Op.CHECKPOINT, "RP", ""),
    (Op.UPDATE, "crRP", ""),
    (Op.EXEC, "cR", ""),
    (Op.KILL, "crRPS", "R"),
    (Op.RESIZE, "crRPS", "cfR"),
]


@pytest.mark.parametrize(("op", "of_init", "of_an_exec"), ADMITTED)
def test_what_the_reference_admits_is_legal_and_nothing_else(
    op: Op, of_init: str, of_an_exec: str
) -> None:
    """What the Go shim does is done, in these states and in no other."""
    for is_exec, admitted in ((False, of_init), (True, of_an_exec)):
        for letter, state in _STATES.items():
            verdict = table.verdict(op, state, is_exec=is_exec)
            assert (verdict is None) == (letter in admitted), (op, state, is_exec)


@pytest.mark.parametrize("is_exec", [False, True])
@pytest.mark.parametrize("op", list(Op))
def test_a_process_that_is_still_to_come_admits_nothing(op: Op, is_exec: bool) -> None:
    """A state without a row refuses."""
    assert table.verdict(op, State.COMING, is_exec=is_exec) is not None
