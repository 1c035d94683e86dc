"""What shims say of one life with an exec: see `questions`."""

from __future__ import annotations

from typing import Final

from .questions import (
    DELETE,
    DELETE_E,
    FIFOS,
    KILL_9,
    START,
    START_E,
    WAIT,
    WAIT_E,
    add,
    create,
)

LIFE: Final = [
    create(**FIFOS),
    START,
    add("e", ["sh", "-c", "exit 4"]),
    START_E,
    WAIT_E,
    DELETE_E,
    KILL_9,
    WAIT,
    DELETE,
]
_BIND_SAID: Final = "(type=bind source={rootfs} options=[rbind, rw])"
_E_DELETED: Final = (
    "now /tasks/delete containerd.events.TaskDelete "
    "container_id=c1 pid=e exit_status=4 exited_at=now id=e"
)
LIFE_EVENTS: Final = [
    (
        "now /tasks/create containerd.events.TaskCreate "
        f"container_id=c1 bundle={{bundle}} rootfs=[{_BIND_SAID}] "
        "io=(stdin={directory}/in stdout={directory}/out "
        "stderr={directory}/err) pid=init"
    ),
    "now /tasks/start containerd.events.TaskStart container_id=c1 pid=init",
    "now /tasks/exec-added containerd.events.TaskExecAdded container_id=c1 exec_id=e",
    (
        "now /tasks/exec-started containerd.events.TaskExecStarted "
        "container_id=c1 exec_id=e pid=e"
    ),
    (
        "now /tasks/exit containerd.events.TaskExit "
        "container_id=c1 id=e pid=e exit_status=4 exited_at=now"
    ),
    _E_DELETED,
    (
        "now /tasks/exit containerd.events.TaskExit "
        "container_id=c1 id=c1 pid=init exit_status=137 exited_at=now"
    ),
    (
        "now /tasks/delete containerd.events.TaskDelete "
        "container_id=c1 pid=init exit_status=137 exited_at=now"
    ),
]
OURS_ALONE: Final = {
    _E_DELETED: "it should be said, and the Go shim never does",
}
