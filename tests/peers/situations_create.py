"""What shims answer to a Create that cannot be: see `questions`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from .answers import PENDING, Call
from .questions import (
    ADD_E,
    BROKEN,
    CREATE,
    DELETE,
    FIFOS,
    FORGET,
    HALF,
    INIT_STATE,
    KILL_9,
    LEFTOVERS,
    NO_FIFO,
    NOT_CREATED,
    PIDS,
    START,
    START_E,
    STATE,
    UNSTARTABLE,
    WAIT,
    Row,
    Situation,
    configure,
    create,
    impatient,
    run,
    write,
)

CLEANS: Final = "when a late step of create fails, the Go shim leaves the container"
HANGS: Final = "with stdin only, the Go shim waits for an end that never comes"
SUFFIX: Final = "1.6 forgets the class of this error, later versions do not"
MOUNT: Final = "1.6 names the component in Go's notation"
OWN_LOG: Final = "ours has a log for each exec, as later versions have"
EMPTY_VALUE: Final = "since 1.7 options without a value are the defaults"
CREATE_FAILED: Final = "2 OCI runtime create failed: |runc create failed: "
NO_LOG: Final = (
    "2 OCI runtime create failed: unable to retrieve OCI runtime error "
    "(open {bundle}/log.json: no such file or directory): "
)


def mount_failure(kind: str, source: str, options: str, error: str) -> tuple[str, str]:
    """Return how ours and the Go shim tell of a mount that failed."""
    flags = 20481 if "rbind" in options else 0
    data = "" if flags else options
    ours = (
        f'mount source: "{source}", target: "{{bundle}}/rootfs", fstype: {kind}, '
        f'flags: {flags}, data: "{data}", err: {error}'
    )
    stock = f"&{{{kind} {source} [{options}]}}: {error}"
    what = "2 failed to mount rootfs component"
    return f"{what}: {ours}", f"{what} {stock}"


def _create_failing(name: str, config: list[str] | str, runcs_words: str) -> list[Row]:
    told = f"{name}: "
    return [
        Row(replace(configure(config), name=f"{told}config")),
        Row(create(f"{told}create"), CREATE_FAILED + runcs_words),
    ]


CONFIGS = Situation(
    "create: commands and configs that cannot be run",
    [],
    [
        *_create_failing(
            "missing",
            ["/nope"],
            f'{UNSTARTABLE}"/nope": stat /nope: no such file or directory',
        ),
        *_create_failing(
            "unfound",
            ["nope"],
            f'{UNSTARTABLE}"nope": executable file not found in $PATH',
        ),
        *_create_failing(
            "plain", ["/etc/plain"], f'{UNSTARTABLE}"/etc/plain": permission denied'
        ),
        *_create_failing(
            "directory", ["/etc"], f'{UNSTARTABLE}"/etc": permission denied'
        ),
        *_create_failing("none", [], "args must not be empty"),
        *_create_failing("half", "{", "unexpected EOF"),
        *_create_failing(
            "list",
            "[]",
            "json: cannot unmarshal array into Go value of type specs.Spec",
        ),
        *_create_failing("empty", "", "EOF"),
        *_create_failing("bare", "{}", "process property must not be empty"),
        Row(run("rm", "{bundle}/config.json")),
        Row(CREATE, CREATE_FAILED + "JSON specification file config.json not found"),
        Row(STATE, NOT_CREATED),
        Row(LEFTOVERS, "nothing"),
    ],
)


def _mount_failing(name: str, *components: dict[str, Any], error: str) -> Row:
    last = components[-1]
    ours, stock = mount_failure(
        last["type"], last["source"], " ".join(last.get("options", [])), error
    )
    return Row(create(name, rootfs=list(components)), ours, stock, MOUNT)


_BIND: Final = {"type": "bind", "source": "{rootfs}", "options": ["rbind", "rw"]}
_NO_BIND: Final = {
    "type": "bind",
    "source": "{directory}/no",
    "options": ["rbind", "ro"],
}

ROOTS = Situation(
    "create: roots that cannot be mounted",
    [],
    [
        _mount_failing("a missing source", _NO_BIND, error="no such file or directory"),
        _mount_failing(
            "no such file system",
            {"type": "nofs", "source": "x"},
            error="no such device",
        ),
        _mount_failing(
            "a missing layer",
            {
                "type": "overlay",
                "source": "overlay",
                "options": ["lowerdir={directory}/no:{rootfs}"],
            },
            error="no such file or directory",
        ),
        _mount_failing(
            "the second of two", _BIND, _NO_BIND, error="no such file or directory"
        ),
        Row(STATE, NOT_CREATED),
        Row(
            create("none", rootfs=[]),
            CREATE_FAILED + f'{UNSTARTABLE}"sleep": executable file not found in $PATH',
        ),
        Row(LEFTOVERS, "nothing"),
    ],
)

PLACES = Situation(
    "create: ids and bundles that make no sense",
    [],
    [
        Row(
            create("a missing bundle", bundle="{directory}/no"),
            "5 {directory}/no/rootfs: no such file or directory: not found",
            "5 mkdir {directory}/no/rootfs: no such file or directory",
            "the name of the system call, and of the class",
        ),
        Row(
            create("a relative bundle", bundle="x"),
            "3 bundle 'x' is not an absolute path: invalid argument",
            "5 mkdir x/rootfs: no such file or directory",
            BROKEN,
        ),
        Row(
            create("an id with a slash", id="a/b", bundle="{directory}/no"),
            "3 container id 'a/b' must be letters and digits, with single '.', '_' or "
            "'-' between them: invalid argument",
            "5 mkdir {directory}/no/rootfs: no such file or directory",
            BROKEN,
        ),
        Row(LEFTOVERS, "nothing"),
    ],
)

OPTIONS = Situation(
    "create: options of another type",
    [],
    [
        Row(
            create("unknown", options={"type_url": "x.y.Z", "value": b"x"}),
            "5 type with url x.y.Z: not found",
            "2 type with url x.y.Z: not found",
            SUFFIX,
        ),
        Row(
            create(
                "the CRI's",
                options={"type_url": "runtimeoptions.v1.Options", "value": b"\x1a\1="},
            ),
            "3 config_body: Invalid statement (at line 1, column 1): invalid argument",
            "2 type with url runtimeoptions.v1.Options: not found",
            "the Go shim knows no options but its own; ours takes those that CRI gives "
            "to a runtime of another name, which are TOML",
        ),
        Row(
            create(
                "broken",
                options={"type_url": "containerd.runc.v1.Options", "value": b"\xff"},
            ),
            "3 options containerd.runc.v1.Options: Error parsing message with type "
            "'containerd.runc.v1.Options': Wire format was corrupt: invalid argument",
            "9 unexpected EOF",
            "a message that cannot be read is an invalid argument",
        ),
        Row(LEFTOVERS, "nothing"),
        Row(
            create("unknown and empty", options={"type_url": "x.y.Z"}),
            "pid=init",
            "2 type with url x.y.Z: not found",
            EMPTY_VALUE,
        ),
    ],
)

RUNTIMES = Situation(
    "create: runtimes that cannot be run",
    [],
    [
        Row(
            create("by name", binary_name="nope"),
            NO_LOG + 'exec: "nope": executable file not found in $PATH',
        ),
        Row(
            create("by path", binary_name="/nope/runc"),
            NO_LOG + "fork/exec /nope/runc: no such file or directory",
        ),
        Row(
            create("no program", binary_name="/etc/passwd"),
            NO_LOG + "fork/exec /etc/passwd: permission denied",
        ),
        Row(
            create("false", binary_name="/bin/false"),
            NO_LOG + "/bin/false did not terminate successfully: exit status 1",
        ),
        Row(STATE, NOT_CREATED),
        Row(LEFTOVERS, "nothing"),
    ],
)

_FAKE: Final = """#!/bin/sh
for word; do
  if [ -e "{directory}/fail-$word" ]; then echo words; echo more >&2; exit 3; fi
done
exec {runtime} "$@"
"""
_FAILED: Final = "{directory}/fake did not terminate successfully: exit status 3"


def _fail(command: str, call: Call, *answers: str) -> list[Row]:
    """Return rows: a command of the fake runtime fails, and what comes of it."""
    path = f"{{directory}}/fail-{command}"
    name = f"{call.name}, and the runtime fails"
    return [
        Row(write(path)),
        Row(replace(call, name=name), *answers),
        Row(run("rm", path)),
    ]


SILENT = Situation(
    "a runtime that fails without a log",
    [write("{directory}/fake", _FAKE)],
    [
        *_fail("create", create(binary_name="{directory}/fake"), NO_LOG + _FAILED),
        Row(create(binary_name="{directory}/fake"), "pid=init"),
        *_fail("start", START, f"2 OCI runtime start failed: {_FAILED}: words\nmore\n"),
        Row(STATE, INIT_STATE % "CREATED"),
        Row(START, "pid=init"),
        Row(ADD_E),
        *_fail(
            "exec",
            START_E,
            "2 OCI runtime exec failed: unable to retrieve OCI runtime error (open "
            "{bundle}/exec-e.log.json: no such file or directory): " + _FAILED,
            "2 OCI runtime exec failed: " + _FAILED,
            OWN_LOG,
        ),
        *_fail("kill", KILL_9, f"2 unknown error after kill: {_FAILED}: words\nmore\n"),
        *_fail("ps", PIDS, f"2 {_FAILED}: words\nmore\n"),
        Row(KILL_9),
        Row(WAIT, "exit_status=137 exited_at=now"),
        *_fail("delete", DELETE, f"2 failed to delete task: {_FAILED}: words\nmore\n"),
        Row(DELETE, "pid=init exit_status=137 exited_at=now"),
        Row(LEFTOVERS, "nothing"),
    ],
)


def _late_failure(name: str, ours: str, *stock: str, **streams: str) -> list[Row]:
    return [
        Row(create(name, **FIFOS | streams), ours, *stock),
        Row(replace(STATE, name=f"{name}: state"), NOT_CREATED),
        Row(
            replace(LEFTOVERS, name=f"{name}: leftovers"),
            "nothing",
            "cgroup, state",
            CLEANS,
        ),
        Row(replace(FORGET, name=f"{name}: clean")),
    ]


STREAM_FAILURES = Situation(
    "create: streams that cannot be opened",
    [],
    [
        Row(
            create("a scheme", stdout="smoke://signal", stderr="smoke://signal"),
            "2 failed to create init process I/O: unknown STDIO scheme smoke",
        ),
        Row(LEFTOVERS, "nothing"),
        *_late_failure(
            "stdout",
            NO_FIFO % (("{directory}/no",) * 2),
            stdout="{directory}/no",
        ),
        *_late_failure(
            "stderr",
            NO_FIFO % (("{directory}/no",) * 2),
            stderr="{directory}/no",
        ),
        *_late_failure(
            "stdin",
            "2 failed to open stdin fifo {directory}/no: stat {directory}/no: "
            "no such file or directory",
            stdin="{directory}/no",
        ),
        *_late_failure(
            "fifo",
            NO_FIFO % (("fifo://{directory}/out",) * 2),
            stdout="fifo://{directory}/out",
            stderr="fifo://{directory}/err",
        ),
        *_late_failure(
            "scheme of stderr",
            "2 failed to create init process I/O: unknown STDIO scheme smoke",
            NO_FIFO % (("smoke://signal",) * 2),
            "the Go shim never looks at the scheme of stderr",
            stderr="smoke://signal",
        ),
        Row(
            create(
                "file", stdout="file://{directory}/f", stderr="file://{directory}/f"
            ),
            "pid=init",
        ),
    ],
)

TERMINAL = Situation(
    "create: a terminal that the spec does not know",
    [],
    [
        Row(
            create(terminal=True, stdout="{directory}/out"),
            # crun makes the container, and no terminal: that is refused, and undone.
            "2 |OCI runtime create failed: runc create failed: "
            "cannot use console socket if runc will not detach or allocate tty",
        ),
        Row(LEFTOVERS, "nothing"),
    ],
)


def _half(name: str, call: Call, *stock: str) -> Situation:
    return Situation(f"create: {name} only", [], [Row(call, "pid=init", *stock)])


HALVES = [
    _half("stdout", create(stdout="{directory}/out"), NO_FIFO % ("", ""), HALF),
    _half("stderr", create(stderr="{directory}/err"), NO_FIFO % ("", ""), HALF),
    _half("stdin", impatient(create(stdin="{directory}/in"), 3), PENDING, HANGS),
]

ON_CREATE: Final = [
    CONFIGS,
    ROOTS,
    PLACES,
    OPTIONS,
    RUNTIMES,
    SILENT,
    STREAM_FAILURES,
    TERMINAL,
    *HALVES,
]
