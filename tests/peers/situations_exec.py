"""What shims answer about execs: see `questions`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from .answers import CRASH, PENDING
from .questions import (
    ADD_E,
    BROKEN,
    CLOSE_IO_E,
    DELETE_E,
    E_STATE,
    FIFOS,
    FINISHED,
    FORGETS,
    HALF,
    INIT_STATE,
    KILL_9,
    KILL_E_9,
    NO_FIFO,
    PIDS,
    RUNNING,
    SLEEP,
    START_E,
    STATE,
    STATE_E,
    UNSTARTABLE,
    WAIT,
    WAIT_E,
    WAITERS,
    Row,
    Situation,
    add,
    again,
    ask,
    forgotten,
    impatient,
)

PANICS: Final = "the Go shim panics"
NAMED: Final = "an unknown exec is not found; 1.6 forgot it in CloseIO"
NULL: Final = "the Go shim takes null for a process, and fails at its start"
JSON_WORDS: Final = "the words of another JSON parser"
JSON_TYPES: Final = "whether the fields of a process have the right type, runc says"
RESIZE_E: Final = ask("resize_pty", "e", width=80, height=24)
KILL_E_0: Final = ask("kill", "e", "kill e 0", signal=0)
NO_EXEC: Final = "5 process does not exist e: not found"
EXEC_FAILED: Final = "2 OCI runtime exec failed: |exec failed: "
E_STREAMS: Final = (
    "id=e bundle={bundle} pid=e status=RUNNING stdin={directory}/in "
    "stdout={directory}/out stderr={directory}/err exited_at=never"
)

E_UNKNOWN = Situation(
    "exec: unknown",
    RUNNING,
    [
        Row(START_E, NO_EXEC),
        Row(STATE_E, NO_EXEC),
        Row(WAIT_E, NO_EXEC),
        Row(KILL_E_9, NO_EXEC),
        Row(RESIZE_E, NO_EXEC),
        Row(CLOSE_IO_E, NO_EXEC, "2 process does not exist e: not found", NAMED),
        Row(DELETE_E, NO_EXEC),
    ],
)

E_ADDED = Situation(
    "exec: added",
    [*RUNNING, ADD_E],
    [
        Row(again(ADD_E), "6 id e: already exists"),
        Row(STATE_E, E_STATE),
        Row(KILL_E_0, "9 process not created: failed precondition"),
        Row(KILL_E_9, "9 process not created: failed precondition"),
        Row(CLOSE_IO_E),
        Row(RESIZE_E),
        Row(PIDS, "processes=[(pid=init)]"),
        Row(impatient(WAIT_E), PENDING),
        Row(DELETE_E, "exited_at=never"),
        Row(forgotten(WAITERS), "exited_at=never", PENDING, FORGETS),
        Row(again(STATE_E), NO_EXEC),
        Row(again(DELETE_E), NO_EXEC),
        Row(replace(ADD_E, name="the id once more")),
    ],
)

E_RUNNING = Situation(
    "exec: running",
    [*RUNNING, add("e", SLEEP, **FIFOS), START_E],
    [
        Row(again(ADD_E), "6 id e: already exists"),
        Row(again(START_E), "2 cannot start a running process"),
        Row(DELETE_E, "2 cannot delete a running process"),
        Row(STATE_E, E_STREAMS),
        Row(impatient(WAIT_E), PENDING),
        Row(KILL_E_0),
        Row(
            ask("kill", "e", "kill e 99", signal=99),
            "2 exec kill error: unknown error after kill: invalid argument",
        ),
        Row(CLOSE_IO_E),
        Row(again(CLOSE_IO_E)),
        Row(RESIZE_E),
        Row(
            PIDS,
            "processes=[(pid=e info=containerd.runc.v1.ProcessDetails(exec_id=e)), "
            "(pid=init)]",
        ),
        Row(ask("kill", "e", "kill e all 9", signal=9, all=True)),
        Row(WAITERS, "exit_status=137 exited_at=now"),
        Row(STATE, INIT_STATE % "RUNNING"),
    ],
)

E_STOPPED = Situation(
    "exec: stopped",
    [*RUNNING, add("e", ["sh", "-c", "exit 4"]), START_E, WAIT_E],
    [
        Row(again(ADD_E), "6 id e: already exists"),
        Row(again(START_E), "2 cannot start a stopped process"),
        Row(
            STATE_E,
            "id=e bundle={bundle} pid=e status=STOPPED exit_status=4 exited_at=now",
        ),
        Row(again(WAIT_E), "exit_status=4 exited_at=now"),
        Row(KILL_E_0, FINISHED),
        Row(KILL_E_9, FINISHED),
        Row(CLOSE_IO_E),
        Row(RESIZE_E, "2 cannot resize a stopped container"),
        Row(PIDS, "processes=[(pid=init)]"),
        Row(DELETE_E, "pid=e exit_status=4 exited_at=now"),
        Row(again(STATE_E), NO_EXEC),
    ],
)

E_FAILED = Situation(
    "exec: failed to start",
    [*RUNNING, add("e", ["/nope"]), START_E],
    [
        Row(STATE_E, E_STATE),
        Row(WAIT_E, "exited_at=never"),
        Row(KILL_E_9, "9 process not created: failed precondition"),
        Row(CLOSE_IO_E),
        Row(RESIZE_E),
        Row(again(ADD_E), "6 id e: already exists"),
        Row(DELETE_E, "exited_at=never"),
        Row(again(STATE_E), NO_EXEC),
        Row(replace(ADD_E, name="the id once more")),
        Row(replace(START_E, name="its start"), "pid=e"),
    ],
)

E_FAILED_TWICE = Situation(
    "exec: failed to start, and started again",
    [*RUNNING, add("e", ["/nope"]), START_E],
    [
        Row(
            again(START_E),
            "2 cannot start a process that failed to start",
            CRASH,
            PANICS,
        ),
    ],
)

E_OF_STOPPED = Situation(
    "exec: of a container that stopped",
    [*RUNNING, ADD_E, add("f", SLEEP), ask("start", "f"), KILL_9, WAIT],
    [
        Row(
            START_E,
            "9 container c1 init process is not running: failed precondition",
            "2 OCI runtime exec failed: exec failed: "
            "cannot exec in a stopped container",
            "since 1.6.36 it is not tried",
        ),
        Row(STATE_E, E_STATE),
        Row(KILL_E_9, "9 process not created: failed precondition"),
        Row(
            impatient(WAIT_E, 1),
            PENDING,
            "exited_at=never",
            "the start was refused, it did not fail: Wait ends with the delete",
        ),
        Row(DELETE_E, "exited_at=never"),
        Row(
            ask("state", "f"),
            "id=f bundle={bundle} pid=f status=STOPPED exit_status=137 exited_at=now",
        ),
        Row(ask("kill", "f", signal=9), FINISHED),
        Row(ask("delete", "f"), "pid=f exit_status=137 exited_at=now"),
    ],
)


def _exec_failing(exec_id: str, args: list[str], runcs_words: str) -> list[Row]:
    return [
        Row(add(exec_id, args)),
        Row(ask("start", exec_id), EXEC_FAILED + runcs_words),
    ]


E_COMMANDS = Situation(
    "exec: commands that cannot be run",
    RUNNING,
    [
        *_exec_failing(
            "missing",
            ["/nope"],
            f'{UNSTARTABLE}"/nope": stat /nope: no such file or directory',
        ),
        *_exec_failing(
            "unfound",
            ["nope"],
            f'{UNSTARTABLE}"nope": executable file not found in $PATH',
        ),
        *_exec_failing(
            "plain", ["/etc/plain"], f'{UNSTARTABLE}"/etc/plain": permission denied'
        ),
        *_exec_failing(
            "directory", ["/etc"], f'{UNSTARTABLE}"/etc": permission denied'
        ),
        *_exec_failing(
            "below",
            ["/etc/plain/x"],
            f'{UNSTARTABLE}"/etc/plain/x": stat /etc/plain/x: not a directory',
        ),
        *_exec_failing("none", [], "args must not be empty"),
    ],
)

E_SPECS = Situation(
    "exec: specs that make no sense",
    RUNNING,
    [
        Row(
            add("half", b"{"),
            "2 spec of exec half: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)",
            "2 unexpected end of JSON input",
            JSON_WORDS,
        ),
        Row(
            add("empty", b""),
            "2 spec of exec empty: Expecting value: line 1 column 1 (char 0)",
            "2 unexpected end of JSON input",
            JSON_WORDS,
        ),
        Row(
            add("list", b"[]"),
            "2 spec of exec list: not a JSON object",
            "2 json: cannot unmarshal array into Go value of type specs.Process",
            JSON_WORDS,
        ),
        Row(add("null", b"null"), "2 spec of exec null: not a JSON object", "ok", NULL),
        Row(
            add("words", b'{"args":"x","cwd":"/"}'),
            "ok",
            "2 json: cannot unmarshal string into Go struct field Process.args "
            "of type []string",
            JSON_TYPES,
        ),
        Row(
            ask("start", "words"),
            EXEC_FAILED + "json: cannot unmarshal string into Go struct field "
            "Process.args of type []string",
            "5 process does not exist words: not found",
            JSON_TYPES,
        ),
        Row(add("bare", b'{"args":["true"]}')),
        Row(ask("start", "bare"), EXEC_FAILED + "Cwd property must not be empty"),
        Row(
            replace(add("", SLEEP), name="no id"),
            "3 exec id must not be empty: invalid argument",
            "ok",
            BROKEN,
        ),
        Row(
            add("a/../b", SLEEP),
            "3 exec id 'a/../b' must be letters and digits, with single '.', '_' or "
            "'-' between them: invalid argument",
            "ok",
            BROKEN,
        ),
        Row(
            ask("exec", "absent"),
            "2 spec of exec absent: Expecting value: line 1 column 1 (char 0)",
            CRASH,
            PANICS,
        ),
    ],
)

E_STREAM_FAILURES = Situation(
    "exec: streams that cannot be opened",
    RUNNING,
    [
        Row(add("out", SLEEP, **FIFOS | {"stdout": "{directory}/no"})),
        Row(ask("start", "out"), NO_FIFO % (("{directory}/no",) * 2)),
        Row(ask("delete", "out"), "exited_at=never"),
        Row(add("in", SLEEP, **FIFOS | {"stdin": "{directory}/no"})),
        Row(
            ask("start", "in"),
            "2 failed to open stdin fifo {directory}/no: stat {directory}/no: "
            "no such file or directory",
        ),
        Row(ask("delete", "in"), "exited_at=never"),
        Row(add("smoke", SLEEP, stdout="smoke://signal", stderr="smoke://signal")),
        Row(
            ask("start", "smoke"),
            "2 failed to create init process I/O: unknown STDIO scheme smoke",
        ),
        Row(add("half", SLEEP, stdout="{directory}/out")),
        Row(ask("start", "half"), "pid=half", NO_FIFO % ("", ""), HALF),
        Row(
            ask("state", "half"),
            "id=half bundle={bundle} pid=half status=RUNNING stdout={directory}/out "
            "exited_at=never",
            "id=half bundle={bundle} status=CREATED stdout={directory}/out "
            "exited_at=never",
            HALF,
        ),
    ],
)


ON_EXEC: Final = [
    E_UNKNOWN,
    E_ADDED,
    E_RUNNING,
    E_STOPPED,
    E_FAILED,
    E_FAILED_TWICE,
    E_OF_STOPPED,
    E_COMMANDS,
    E_SPECS,
    E_STREAM_FAILURES,
]
