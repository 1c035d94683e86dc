"""Every containerd is killed and comes back: what became of the tasks of each state.

Our shim beside the stock shim of that version; and each in the others place later.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import grpc
import pytest
from tests.machine import pids_with
from tests.shim.harness import make_rootfs

from dunnage.api import task_v2_pb2 as pb
from dunnage.api.types_pb2 import Mount

from .daemon import IMAGE, VERSIONS, Containerd, peer, wait_for
from .test_containerd import nothing_is_left

pytestmark = pytest.mark.slow

STATES = {
    "running": "RUNNING",
    "paused": "PAUSED",
    "created": "CREATED",
    "stopped": "STOPPED",
    "exec": "RUNNING",
}
KILLED = 137
LOST_BY_STOCK: dict[str, dict[str, str]] = {
    # They take a shim without any process for leaked, and end it.
    "containerd-1.7": {"stopped": "status"},
    "containerd-2.1": {"stopped": "status"},
    "containerd-2.3": {"stopped": "status"},
}
"""What the stock shim of a version loses: of a state, the first that is not there."""


class Tasks:
    """The daemon's own service, for what ctr has no command for.

    What is used of its requests is the same as in the shim's.
    """

    def __init__(self, daemon: Containerd) -> None:
        self._daemon = daemon
        self._rootfs = make_rootfs(daemon.directory / "created-rootfs")

    def create(self, name: str) -> None:
        """Create a task of a container, and do not start it."""
        root = Mount(type="bind", source=str(self._rootfs), options=["rbind", "rw"])
        self._call("Create", pb.CreateTaskRequest(id=name, rootfs=[root]))

    def start(self, name: str) -> bool:
        """Start it; whether that works."""
        try:
            self._call("Start", pb.StartRequest(id=name))
        except grpc.RpcError:
            return False
        return True

    def _call(
        self, method: str, request: pb.CreateTaskRequest | pb.StartRequest
    ) -> None:
        with grpc.insecure_channel(f"unix://{self._daemon.address}") as channel:
            call = channel.unary_unary(f"/containerd.services.tasks.v1.Tasks/{method}")
            namespace = ("containerd-namespace", self._daemon.namespace)
            call(request.SerializeToString(), metadata=[namespace], timeout=20)


def use(daemon: Containerd, whose: str) -> list[str]:
    """Have a shim answer to the stock runtime's name; return the words for ctr."""
    link = daemon.directory / "bin/containerd-shim-runc-v2"
    link.unlink(missing_ok=True)
    ours = daemon.directory / "bin/containerd-shim-dunnage-v2"
    stock = peer(daemon.version, "containerd-shim-runc-v2")
    link.symlink_to(ours if whose == "ours" else stock)
    return ["--runtime", "io.containerd.runc.v2"]


def status(daemon: Containerd, name: str) -> str:
    """Return what ctr lists of a task, empty if it is not there."""
    lines = daemon.ctr("task", "ls").stdout.decode().splitlines()
    rows = {line.split()[0]: line.split()[-1] for line in lines[1:]}
    return rows.get(name, "")


def bring_up(daemon: Containerd, tasks: Tasks, words: list[str], whose: str) -> None:
    """Have a task of each state, which is in its name."""
    for state in ("running", "paused", "stopped", "exec"):
        daemon.ctr("run", "-d", *words, IMAGE, f"{state}-{whose}", "sleep", "1000")
    daemon.ctr("task", "pause", f"paused-{whose}")
    stopped = f"stopped-{whose}"
    daemon.ctr("task", "kill", "-s", "KILL", stopped)
    wait_for("the end", lambda: status(daemon, stopped) == "STOPPED")
    sleep = ["sleep", "1001"]
    daemon.ctr("task", "exec", "-d", "--exec-id", "e", f"exec-{whose}", *sleep)
    daemon.ctr("container", "create", *words, IMAGE, f"created-{whose}", *sleep)
    tasks.create(f"created-{whose}")


def lost(daemon: Containerd, tasks: Tasks, state: str, name: str) -> str:
    """Use the task of a state and delete it; return what does not work, if anything."""
    ctr = functools.partial(works, daemon, "task")
    own: dict[str, list[tuple[str, Callable[[], object]]]] = {
        "paused": [("resume", lambda: ctr("resume", name))],
        "created": [("start", lambda: tasks.start(name))],
        "exec": [
            ("exec listed", lambda: execs(daemon, name) == ["e"]),
            ("exec killed", lambda: ctr("kill", "--exec-id", "e", name)),
            ("exec gone", lambda: eventually(lambda: not execs(daemon, name))),
        ],
    }
    alive: list[tuple[str, Callable[[], object]]] = [
        ("ps", lambda: ctr("ps", name)),
        ("exec", lambda: ctr("exec", "--exec-id", "x", name, "true")),
        ("kill", lambda: ctr("kill", "-s", "KILL", name)),
        ("exit", lambda: eventually(lambda: status(daemon, name) == "STOPPED")),
    ]
    steps: list[tuple[str, Callable[[], object]]] = [
        ("status", lambda: status(daemon, name) == STATES[state]),
        *own.get(state, []),
        *(alive if state != "stopped" else []),
        ("exit status", lambda: deleted(daemon, name) == KILLED),
    ]
    return next((what for what, step in steps if not step()), "")


def works(daemon: Containerd, *words: str) -> bool:
    """Whether a call of ctr succeeds."""
    return daemon.ctr(*words, check=False).returncode == 0


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether something becomes true soon."""
    try:
        wait_for("it", condition, 5)
    except AssertionError:
        return False
    return True


def listed(daemon: Containerd, name: str) -> str:
    """Return what ctr lists of a task's processes."""
    return daemon.ctr("task", "ps", name, check=False).stdout.decode()


def execs(daemon: Containerd, name: str) -> list[str]:
    """Return the ids of the execs that ctr lists."""
    return re.findall(r'(?:exec_id|ExecID):\s*"?(\w+)', listed(daemon, name))


def deleted(daemon: Containerd, name: str) -> int:
    """Delete a task; return the status that ctr says, -1 for none."""
    done = daemon.ctr("task", "delete", name, check=False)
    daemon.ctr("container", "delete", name, check=False)
    said = done.stderr.decode()
    _, _, code = said.rpartition("exit code ")
    return (
        int(code.split()[0].rstrip('"')) if code and code != said else done.returncode
    )


@pytest.mark.parametrize("containerd", VERSIONS, indirect=True)
@pytest.mark.feature("restart with tasks of every state")
def test_what_a_restart_leaves(containerd: Containerd) -> None:
    """Ours loses nothing; what the stock shim loses is stated."""
    tasks = Tasks(containerd)
    found: dict[str, dict[str, str]] = {}
    for whose in ("ours", "stock"):
        words = use(containerd, whose)
        bring_up(containerd, tasks, words, whose)
        containerd.kill()
        containerd.start()
        found[whose] = {
            state: what
            for state in STATES
            if (what := lost(containerd, tasks, state, f"{state}-{whose}"))
        }
        if not found[whose] and whose == "ours":
            nothing_is_left(containerd)
    assert {"ours": {}, "stock": LOST_BY_STOCK.get(containerd.version, {})} == found


@pytest.mark.parametrize("containerd", VERSIONS, indirect=True)
@pytest.mark.feature("changing to and from the stock shim over a restart")
def test_each_in_the_others_place(containerd: Containerd) -> None:
    """Over a restart of the daemon, tasks of both are reloaded, used and deleted."""
    for whose in ("stock", "ours", "stock"):
        words = use(containerd, whose)
        name = f"of-{whose}"
        containerd.ctr("run", "-d", *words, IMAGE, name, "sleep", "1000")
        containerd.kill()
        use(containerd, "ours" if whose == "stock" else "stock")
        containerd.start()
        assert "RUNNING" == status(containerd, name)
        containerd.ctr("task", "exec", "--exec-id", "x", name, "true")
        containerd.ctr("task", "kill", "-s", "KILL", name)
        wait_for("the end", lambda name=name: status(containerd, name) == "STOPPED")  # type: ignore[misc]
        assert KILLED == deleted(containerd, name)
        assert "" == status(containerd, name)
    wait_for("shims to leave", lambda: not pids_with(containerd.namespace))
