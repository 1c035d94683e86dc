"""What a shim answers in which situation: ours, and containerd 1.6's Go shim.

One table: a row is a question, our answer, and the Go shim's where it is another one,
with the reason for which ours is.
How answers are written is said in `answers`.
In a row's answer, what follows a ``|`` are runc's own words; crun has others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.shim.harness import process, spec

from .answers import Call

# -- reasons

LATER: Final = "a later issue builds it; until then the call is unimplemented"
HALF: Final = "an output that is not asked for is /dev/null, no failure"
BROKEN: Final = "the Go shim lets through what is no identifier, and paths with it"
FORGETS: Final = (
    "the Go shim leaves those who wait without an answer when the process is deleted"
)


@dataclass(frozen=True)
class Row:
    """A question and its answers; ``stock`` and ``why`` only where they differ."""

    call: Call
    ours: str = "ok"
    stock: str = ""
    why: str = ""

    @property
    def with_runc(self) -> str:
        """What ours answers with runc."""
        return self.ours.replace("|", "").replace("{runtime}", "runc")

    @property
    def of_stock(self) -> str:
        """What the Go shim answers, with runc."""
        return self.stock or self.with_runc

    @property
    def with_crun(self) -> str:
        """What ours answers with crun, up to where its own words begin."""
        return self.ours.partition("|")[0].replace("{runtime}", "crun")

    def ours_ends(self, answer: str) -> int:
        """Say where in an answer with crun its own words begin."""
        return len(self.with_crun if "|" in self.ours else answer)


@dataclass(frozen=True)
class Situation:
    """How a container comes into a state, and the questions then asked in order."""

    name: str
    given: list[Call]
    rows: list[Row] = field(default_factory=list)


# -- questions


def ask(method: str, exec_id: str = "", name: str = "", **fields: Any) -> Call:
    """Call a method about the container, or an exec of it."""
    if exec_id:
        fields["exec_id"] = exec_id
    return Call(name or f"{method} {exec_id}".strip(), method, fields)


def add(exec_id: str, args: list[str] | bytes, name: str = "", **fields: Any) -> Call:
    """Add an exec of a command, or of whatever the bytes say."""
    value = args if isinstance(args, bytes) else json.dumps(process(args)).encode()
    packed = {"type_url": "process", "value": value}
    return ask("exec", exec_id, name, spec=packed, **fields)


def create(name: str = "create", **fields: Any) -> Call:
    """Create the container."""
    return Call(name, "create", fields)


def impatient(call: Call, patience_s: float = 0.1) -> Call:
    """Ask without expecting an answer now."""
    return replace(call, patience_s=patience_s)


def forgotten(call: Call) -> Call:
    """Ask what only ours answers, and at once."""
    return impatient(call, 1)


def write(path: str, text: str = "") -> Call:
    """Write a file."""
    return Call(f"write {path}", "write", {"path": path, "text": text})


def run(*argv: str) -> Call:
    """Run a program."""
    return Call(" ".join(argv), "run", {"argv": list(argv)})


def configure(args: list[str] | str) -> Call:
    """Replace the container's command, or all of its config.json."""
    if isinstance(args, str):
        return write("{bundle}/config.json", args)
    config = spec(args)
    config["linux"]["cgroupsPath"] = "/dunnage-test-{namespace}"
    return write("{bundle}/config.json", json.dumps(config))


FIFOS: Final = {
    "stdin": "{directory}/in",
    "stdout": "{directory}/out",
    "stderr": "{directory}/err",
}
SLEEP: Final = ["sleep", "1000"]

CREATE: Final = create()
START: Final = ask("start")
KILL_9: Final = ask("kill", name="kill 9", signal=9)
WAIT: Final = ask("wait")
STATE: Final = ask("state")
DELETE: Final = ask("delete")
PIDS: Final = ask("pids")
ADD_E: Final = add("e", SLEEP)
START_E: Final = ask("start", "e")
STATE_E: Final = ask("state", "e")
WAIT_E: Final = ask("wait", "e")
KILL_E_9: Final = ask("kill", "e", "kill e 9", signal=9)
CLOSE_IO_E: Final = ask("close_io", "e", stdin=True)
DELETE_E: Final = ask("delete", "e")
LEFTOVERS: Final = Call("leftovers", "leftovers")
WAITERS: Final = Call("later", "later")
FORGET: Final = run(
    *("{runtime}", "--root", "/run/containerd/runc/{namespace}"),
    *("delete", "--force", "c1"),
)
"""Take the container away behind the shim's back."""

RUNNING: Final = [CREATE, START]


def again(call: Call) -> Call:
    """Ask the same once more."""
    return replace(call, name=f"{call.name} again")


# -- answers

NOT_CREATED: Final = "5 container not created: not found"
FINISHED: Final = "5 process already finished: not found"
UNSTARTABLE: Final = "unable to start container process: exec: "
NO_FIFO: Final = (
    "2 failed to start io pipe copy: unable to copy pipes: containerd-shim: "
    'opening file "%s" failed: open %s: no such file or directory'
)
INIT_STATE: Final = "id=c1 bundle={bundle} pid=init status=%s exited_at=never"
E_STATE: Final = "id=e bundle={bundle} status=CREATED exited_at=never"
