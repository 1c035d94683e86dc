"""What the contract demands of the events of one task, as an automaton of its own.

It shares no code with the machine: it sees nothing but the events.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dunnage.task import events as e


@dataclass(frozen=True)
class Life:
    """What was said of one exec since it was added."""

    started: bool = False
    exited: bool = False


@dataclass(frozen=True)
class Oracle:
    """What was said so far; `said` returns the next one, or fails."""

    created: bool = False
    started: bool = False
    paused: bool = False
    exited: bool = False
    deleted: bool = False
    execs: tuple[tuple[str, Life], ...] = field(default=())

    def said(self, event: e.Event) -> Oracle:
        """Check one event against all that came before it."""
        assert not self.deleted, f"after the task's delete: {event}"
        match event:
            case e.TaskCreate():
                assert not self.created, "created twice"
                return replace(self, created=True)
            case _:
                pass
        assert self.created, f"before create: {event}"
        match event:
            case e.TaskDelete(id=""):
                assert self.exited or not self.started, "deleted before the exit"
                assert not self.execs, "deleted before its execs"
                return replace(self, deleted=True)
            case e.TaskDelete(id=exec_id):
                life = self.life(exec_id)
                assert life.exited or not life.started, "exec deleted before its exit"
                return replace(self, execs=self._without(exec_id))
            case _:
                pass
        assert not self.exited, f"after init's exit: {event}"
        match event:
            case e.TaskStart():
                assert not self.started, "started twice"
                return replace(self, started=True)
            case e.TaskExit(container_id=container_id, id=process) if (
                container_id == process
            ):
                for exec_id, life in self.execs:
                    assert life.exited or not life.started, f"before {exec_id}'s exit"
                return replace(self, exited=True)
            case e.TaskExit(id=exec_id):
                life = self.life(exec_id)
                assert life.started, f"{exec_id} exits before it started"
                assert not life.exited, f"{exec_id} exits twice"
                return self._with(exec_id, replace(life, exited=True))
            case e.TaskExecAdded(exec_id=exec_id):
                assert exec_id not in dict(self.execs), "added twice"
                return self._with(exec_id, Life())
            case e.TaskExecStarted(exec_id=exec_id):
                life = self.life(exec_id)
                assert not life.started, "exec started twice"
                return self._with(exec_id, replace(life, started=True))
            case e.TaskPaused():
                assert self.started, "paused before start"
                assert not self.paused, "paused twice"
                return replace(self, paused=True)
            case e.TaskResumed():
                assert self.paused, "resumed without pause"
                return replace(self, paused=False)
            case e.TaskCheckpointed():
                assert self.started, "checkpointed before start"
                return self
            case e.TaskOOM():
                return self
        raise AssertionError(f"unknown event {event}")

    def life(self, exec_id: str) -> Life:
        """What was said of an exec that must be known."""
        assert exec_id in dict(self.execs), f"{exec_id} was not added"
        return dict(self.execs)[exec_id]

    def _without(self, exec_id: str) -> tuple[tuple[str, Life], ...]:
        return tuple(item for item in self.execs if item[0] != exec_id)

    def _with(self, exec_id: str, life: Life) -> Oracle:
        execs = sorted([*self._without(exec_id), (exec_id, life)])
        return replace(self, execs=tuple(execs))
