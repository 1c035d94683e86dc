"""What shims answer about a container and its init: see `questions`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from .answers import PENDING
from .questions import (
    ADD_E,
    CLOSE_IO_E,
    CREATE,
    DELETE,
    DELETE_E,
    E_STATE,
    FIFOS,
    FINISHED,
    FORGET,
    FORGETS,
    INIT_STATE,
    KILL_9,
    KILL_E_9,
    LEFTOVERS,
    NOT_CREATED,
    PIDS,
    RUNNING,
    SLEEP,
    START,
    START_E,
    STATE,
    STATE_E,
    WAIT,
    WAIT_E,
    WAITERS,
    Row,
    Situation,
    add,
    again,
    ask,
    configure,
    create,
    forgotten,
    impatient,
)

_IS_NOT_LEAKED: Final = (
    "a daemon that reloads takes a shim without a process for leaked, and ends it: "
    "the exit status would be lost"
)
DUPLICATE: Final = (
    "the Go shim leaves a duplicate id to runc; ours knows the container, and says "
    "already exists"
)
KILL_0: Final = ask("kill", name="kill 0", signal=0)
KILL_99: Final = ask("kill", name="kill 99", signal=99)
ALL_9: Final = ask("kill", name="kill all 9", signal=9, all=True)
CLOSE_IO: Final = ask("close_io", stdin=True)
CONNECT: Final = ask("connect")
SHUTDOWN: Final = ask("shutdown")
TAKEN: Final = (
    "OCI runtime create failed: runc create failed: "
    "container with given ID already exists"
)
INVALID: Final = (
    "2 unknown error after kill: {runtime} did not terminate successfully: "
    "exit status 1: |unable to signal init: invalid argument\n"
)
E_PAUSED: Final = "id=%s bundle={bundle} status=PAUSED exited_at=never"
E_RUNS: Final = "id=e bundle={bundle} pid=e status=RUNNING exited_at=never"
PAUSE: Final = ask("pause")
RESUME: Final = ask("resume")
CHECKPOINT: Final = ask("checkpoint", path="{directory}/checkpoint")
UPDATE: Final = ask("update", resources={"type_url": "resources", "value": b"{}"})
STATS: Final = ask("stats")
RESIZE: Final = ask("resize_pty", width=80, height=24)
STREAMS: Final = (
    "id=c1 bundle={bundle} pid=init status=RUNNING stdin={directory}/in "
    "stdout={directory}/out stderr={directory}/err exited_at=never"
)


NOTHING = Situation(
    "no container",
    [],
    [
        *(
            Row(call, NOT_CREATED)
            for call in (
                *(START, DELETE, ADD_E, STATE, WAIT, KILL_9, PIDS, CLOSE_IO, RESIZE),
                *(START_E, STATE_E, WAIT_E, KILL_E_9, CLOSE_IO_E, DELETE_E),
                *(PAUSE, RESUME, CHECKPOINT, UPDATE, STATS),
            )
        ),
        Row(CONNECT, "shim_pid=shim"),
        Row(
            replace(CONNECT, name="v3", service="containerd.task.v3.Task"),
            "shim_pid=shim",
            "12 service containerd.task.v3.Task",
            "version 3 of the service came with containerd 2.0",
        ),
        Row(replace(CONNECT, name="v4", service="no.Service"), "12 service no.Service"),
        Row(SHUTDOWN),
    ],
)

CREATED = Situation(
    "created",
    [CREATE],
    [
        Row(STATE, INIT_STATE % "CREATED"),
        Row(impatient(WAIT), PENDING),
        Row(KILL_0),
        Row(KILL_99, INVALID),
        Row(PIDS, "processes=[(pid=init)]"),
        Row(CLOSE_IO),
        Row(CONNECT, "shim_pid=shim task_pid=init"),
        Row(SHUTDOWN),
        Row(ADD_E),
        Row(STATE_E, E_STATE),
        Row(START_E, "pid=e"),
        Row(again(STATE_E), E_RUNS),
        Row(KILL_E_9),
        Row(WAIT_E, "exit_status=137 exited_at=now"),
        Row(DELETE_E, "pid=e exit_status=137 exited_at=now"),
        Row(PAUSE, "2 cannot pause task in created state"),
        Row(RESUME, "2 cannot resume task in created state"),
        Row(CHECKPOINT, "2 cannot checkpoint a task in created state"),
        Row(UPDATE),
        Row(STATS, "stats=metrics"),
        Row(RESIZE),
        Row(
            DELETE,
            "pid=init exit_status=137 exited_at=now",
            "pid=init exited_at=never",
            "of a created task the Go shim says delete before the exit",
        ),
        Row(forgotten(WAITERS), "exit_status=137 exited_at=now", PENDING, FORGETS),
        Row(again(STATE), NOT_CREATED),
        Row(LEFTOVERS, "nothing"),
    ],
)

KILLED_CREATED = Situation(
    "killed before its start",
    [CREATE],
    [
        Row(KILL_9),
        Row(WAIT, "exit_status=137 exited_at=now"),
        Row(START, "2 cannot start a stopped process"),
        Row(
            STATE,
            (INIT_STATE % "STOPPED")
            .replace("exited", "exit_status=137 exited")
            .replace("never", "now"),
        ),
        Row(DELETE, "pid=init exit_status=137 exited_at=now"),
    ],
)

RUNS = Situation(
    "running",
    [create(**FIFOS), START],
    [
        Row(again(START), "2 cannot start a running process"),
        Row(DELETE, "2 cannot delete a running process"),
        Row(STATE, STREAMS),
        Row(impatient(WAIT), PENDING),
        Row(KILL_0),
        Row(ask("kill", name="kill all 0", signal=0, all=True)),
        Row(KILL_99, INVALID),
        Row(PIDS, "processes=[(pid=init)]"),
        Row(CLOSE_IO),
        Row(again(CLOSE_IO)),
        Row(CONNECT, "shim_pid=shim task_pid=init"),
        Row(SHUTDOWN),
        Row(RESUME, "2 cannot resume a running process"),
        Row(PAUSE),
        Row(again(RESUME)),
        Row(UPDATE),
        Row(STATS, "stats=metrics"),
        Row(RESIZE),
        Row(KILL_9),
        Row(WAITERS, "exit_status=137 exited_at=now"),
        Row(again(WAIT), "exit_status=137 exited_at=now"),
    ],
)

IS_STOPPED = Situation(
    "stopped",
    [configure(["sh", "-c", "exit 3"]), *RUNNING, WAIT],
    [
        Row(again(START), "2 cannot start a stopped process"),
        Row(ADD_E, "2 cannot exec in a stopped state"),
        Row(
            STATE,
            "id=c1 bundle={bundle} pid=init status=STOPPED exit_status=3 exited_at=now",
        ),
        Row(again(WAIT), "exit_status=3 exited_at=now"),
        Row(KILL_0, FINISHED),
        Row(KILL_9, FINISHED),
        Row(ALL_9),
        Row(PIDS, "processes=[(pid=init)]", "ok", _IS_NOT_LEAKED),
        Row(CLOSE_IO),
        Row(CONNECT, "shim_pid=shim task_pid=init"),
        Row(SHUTDOWN),
        Row(PAUSE, "2 cannot pause a stopped container"),
        Row(RESUME, "2 cannot resume a stopped container"),
        Row(CHECKPOINT, "2 cannot checkpoint a stopped container"),
        Row(UPDATE, "2 cannot update a stopped container"),
        Row(RESIZE),
        Row(DELETE, "pid=init exit_status=3 exited_at=now"),
        Row(LEFTOVERS, "nothing"),
    ],
)

FROZEN = Situation(
    "paused",
    [*RUNNING, ADD_E, START_E, add("f", SLEEP), PAUSE],
    [
        Row(STATE, INIT_STATE % "PAUSED"),
        Row(STATE_E, E_RUNS.replace("RUNNING", "PAUSED")),
        Row(ask("state", "f"), E_PAUSED % "f"),
        Row(again(START), "2 cannot start a paused process"),
        Row(DELETE, "2 cannot delete a paused process"),
        Row(again(PAUSE), "2 cannot pause a paused container"),
        Row(add("g", SLEEP), "2 cannot exec in a paused state"),
        Row(
            ask("start", "f"),
            "2 OCI runtime exec failed: |exec failed: "
            "cannot exec in a paused container (use --ignore-paused to override)",
        ),
        Row(ask("delete", "f"), "exited_at=never"),
        Row(KILL_0),
        Row(KILL_99, INVALID),
        Row(
            PIDS,
            "processes=[(pid=e info=containerd.runc.v1.ProcessDetails(exec_id=e)), "
            "(pid=init)]",
        ),
        Row(CLOSE_IO),
        Row(RESIZE),
        Row(SHUTDOWN),
        Row(UPDATE),
        Row(STATS, "stats=metrics"),
        Row(ask("kill", name="kill 15", signal=15)),
        Row(again(STATE), INIT_STATE % "PAUSED"),
        Row(RESUME),
        Row(again(RESUME), "2 cannot resume a running process"),
        Row(again(again(STATE)), INIT_STATE % "RUNNING"),
        Row(again(again(PAUSE))),
        Row(impatient(WAIT), PENDING),
        Row(KILL_9),
        Row(WAITERS, "exit_status=137 exited_at=now"),
        Row(WAIT_E, "exit_status=137 exited_at=now"),
        Row(
            replace(STATE, name="state at last"),
            (INIT_STATE % "STOPPED")
            .replace("exited", "exit_status=137 exited")
            .replace("never", "now"),
        ),
        Row(DELETE_E, "pid=e exit_status=137 exited_at=now"),
        Row(
            replace(DELETE, name="delete last"),
            "pid=init exit_status=137 exited_at=now",
        ),
        Row(LEFTOVERS, "nothing"),
    ],
)

DELETED = Situation(
    "deleted",
    [*RUNNING, ADD_E, KILL_9, WAIT, DELETE],
    [
        *(
            Row(again(call), NOT_CREATED)
            for call in (
                *(START, DELETE, ADD_E, STATE, WAIT, KILL_9, PIDS, CLOSE_IO, RESIZE),
                *(START_E, STATE_E, WAIT_E, KILL_E_9, CLOSE_IO_E, DELETE_E),
            )
        ),
        Row(CONNECT, "shim_pid=shim"),
        Row(again(CREATE), "pid=init"),
        Row(again(again(STATE)), INIT_STATE % "CREATED"),
        Row(again(SHUTDOWN)),
        Row(again(CONNECT), "shim_pid=shim task_pid=init"),
    ],
)

DUPLICATES = Situation(
    "a second create",
    RUNNING,
    [
        Row(again(CREATE), "6 container c1: already exists", f"2 {TAKEN}", DUPLICATE),
        Row(
            LEFTOVERS,
            "cgroup, mount, state",
            "cgroup, state",
            "the Go shim's failed duplicate unmounts the root of the one that runs",
        ),
        Row(STATE, INIT_STATE % "RUNNING"),
        Row(KILL_9),
        Row(WAIT, "exit_status=137 exited_at=now"),
        Row(
            replace(CREATE, name="of one that stopped"),
            "6 container c1: already exists",
            f"2 {TAKEN}",
            DUPLICATE,
        ),
        Row(DELETE, "pid=init exit_status=137 exited_at=now"),
        Row(replace(CREATE, name="of one deleted"), "pid=init"),
    ],
)

LOST = Situation(
    "a container taken away from the runtime",
    [*RUNNING, FORGET],
    [
        Row(KILL_9, "5 no such container: not found"),
        Row(ALL_9, "5 no such container: not found"),
        Row(WAIT, "exit_status=137 exited_at=now"),
        Row(
            PIDS,
            "processes=[(pid=init)]",
            "2 runc did not terminate successfully: exit status 1: "
            "container does not exist\n",
            _IS_NOT_LEAKED,
        ),
        Row(DELETE, "pid=init exit_status=137 exited_at=now"),
        Row(LEFTOVERS, "nothing"),
    ],
)


ON_INIT: Final = [
    NOTHING,
    CREATED,
    KILLED_CREATED,
    RUNS,
    IS_STOPPED,
    FROZEN,
    DELETED,
    DUPLICATES,
    LOST,
]
