"""The mutants that no test can kill: they do the same, for the reason given.

Names are those of `make.mutants_of`; ``script/mutants`` fails where one of these no
longer exists, or no longer survives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_NEW: Final = "both are attributes of an object that nobody else has yet"
_PURE: Final = "neither reads what the other writes"

EQUIVALENT: Final[Mapping[str, str]] = {
    "task.machine Task.__init__: swap self._oom_before_create = False | "
    "self._processes: dict[str, Process] = {INIT: Process()}": _NEW,
    "task.machine Task.snapshot: swap status = _STATUS[process.state] | "
    "init = self._init": _PURE,
    "task.machine Task.snapshot: swap if init.state is State.PAUSED: … | "
    "said = process.state in {State.STOPPED, State.DELETED}": _PURE,
    "task.machine Task.from_bytes: swap task._oom_before_create = state['oom'] | "
    "task._processes = {exec_id: Process.from_json(fields) "
    "for exec_id, fields in state['processes'].items()}": _NEW,
    "task.machine Task._commit_create: swap self._oom_before_create = False | "
    "self._emit(TaskOOM(self.id))": "the flag is read by no call that emit may make",
    "task.machine Task._commit_delete: swap "
    "self._emit(TaskDelete(self.id, each.pid, status, at_ns, each_id)) | "
    "if each_id != exec_id: …": "a deleted exec and none are the same to whoever asks",
    "task.machine Task._roll_back: swap process.death = None | if exec_id: …": _PURE,
    "task.machine Task._check: swap process = self._public(exec_id) | changes = op in "
    "{Op.START, Op.PAUSE, Op.RESUME, Op.CHECKPOINT, Op.DELETE}": _PURE,
    "task.machine Task._check: swap if changes and process.op is not None: … | "
    "if changes and exec_id: …": "no operation on an exec is in flight with init's "
    "delete: neither begins while the other lasts",
    "task.machine Task._check: swap if changes and exec_id: … | "
    "refusal = table.verdict(op, process.state, is_exec=bool(exec_id))": _PURE,
    "publish.outbox Outbox.__init__: swap "
    "self.on_put: Callable[[], None] = _nothing | self._namespace = namespace": _NEW,
    "publish.outbox Outbox.__init__: swap self._last_ns = 0 | "
    "self._waiting: deque[bytes] = deque()": _NEW,
    "publish.outbox Outbox.from_bytes: swap "
    "version, outbox._last_ns = _HEAD.unpack_from(data) | at = _HEAD.size": _PURE,
}
