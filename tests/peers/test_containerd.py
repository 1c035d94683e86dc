"""Our shim under real containerds: by name, and in the stock shim's place."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from tests.machine import IS_CGROUP_V2, cgroups_named, pids_with

from .daemon import IMAGE, OLDEST, VERSIONS, Containerd, errors, wait_for

pytestmark = pytest.mark.slow

BY_NAME = ["--runtime", "io.containerd.dunnage.v2"]
EACH = pytest.mark.parametrize("containerd", VERSIONS, indirect=True)


def _ways(version: object) -> list[object]:
    """Return the ways to our shim under a version of the daemon."""
    values, marks = (
        getattr(version, "values", (version,)),
        getattr(version, "marks", ()),
    )
    ways = {"by-name": BY_NAME, "in-place": []}
    if values == (OLDEST,):  # Debian 12's crun refuses the specs of newer ones
        ways["in-place-crun"] = ["--runc-binary", "crun"]
    return [
        pytest.param(*values, words, marks=marks, id=f"{values[0]}-{name}")
        for name, words in ways.items()
    ]


EACH_WAY = pytest.mark.parametrize(
    ("containerd", "way"),
    [way for version in VERSIONS for way in _ways(version)],
    indirect=["containerd"],
)
LIFE = ["create", "start", "exit", "delete"]


def nothing_is_left(daemon: Containerd) -> None:
    """No shim, bundle, mount or cgroup of the namespace; waits for the last steps."""
    wait_for("shims to leave", lambda: not pids_with(daemon.namespace))
    bundles = list(daemon.bundles.iterdir()) if daemon.bundles.exists() else []
    assert bundles == []
    mounts = Path("/proc/self/mountinfo").read_text()
    assert f"/{daemon.namespace}/" not in mounts
    parents = cgroups_named(daemon.namespace)
    assert [group for parent in parents for group in parent.glob("*/")] == []
    assert list(Path("/run/containerd/runc").glob(f"{daemon.namespace}/*")) == []


@EACH_WAY
@pytest.mark.feature("run: output and exit status", "events in order")
def test_run_gives_output_and_exit_code(containerd: Containerd, way: list[str]) -> None:
    """``ctr run --rm`` prints what the container prints and exits as it does."""
    command = ["sh", "-c", "echo out; echo err >&2; exit 7"]
    with containerd.events() as events:
        done = containerd.ctr("run", "--rm", *way, IMAGE, "c", *command, check=False)
        wait_for("the events", lambda: len(events.topics("c")) >= len(LIFE))
    assert (done.returncode, done.stdout, errors(done)) == (7, b"out\n", [b"err"])
    assert events.topics("c") == LIFE
    nothing_is_left(containerd)


@EACH_WAY
@pytest.mark.feature("stdin")
def test_stdin_is_piped_in(containerd: Containerd, way: list[str]) -> None:
    """What goes into ctr comes out of the container, to the last byte."""
    data = bytes(range(256)) * 4096
    done = containerd.ctr("run", "--rm", *way, IMAGE, "c", "cat", stdin=data)
    assert done.stdout == data
    nothing_is_left(containerd)


@EACH_WAY
@pytest.mark.feature("detached tasks, ps, exec, kill, delete", "events in order")
def test_a_detached_task_and_what_ctr_does_with_it(
    containerd: Containerd, way: list[str]
) -> None:
    """ls, ps, exec, kill, delete; all events in order."""
    with containerd.events() as events:
        containerd.ctr("run", "-d", *way, IMAGE, "c", "sleep", "1000")
        listed = containerd.ctr("task", "ls").stdout.decode()
        assert re.search(r"^c\s+\d+\s+RUNNING$", listed, re.MULTILINE), listed
        pid = listed.split()[-2]
        assert pid in containerd.ctr("task", "ps", "c").stdout.decode().split()
        exec_ = ["task", "exec", "--exec-id", "e", "c"]
        done = containerd.ctr(*exec_, "sh", "-c", "echo hi; exit 5", check=False)
        assert (done.returncode, done.stdout) == (5, b"hi\n")
        containerd.ctr("task", "kill", "-s", "KILL", "c")
        wait_for("the exit", lambda: "STOPPED" in _list(containerd))
        done = containerd.ctr("task", "delete", "c")
        assert b"exit code 137" in done.stderr
        expected = ["create", "start", "exec-added", "exec-started", "exit e"]
        expected += ["delete e", "exit", "delete"]
        wait_for("the events", lambda: len(events.topics("c")) >= len(expected))
    assert events.topics("c") == expected
    containerd.ctr("container", "delete", "c")
    nothing_is_left(containerd)


@pytest.mark.feature("pause and resume", "events in order")
@EACH_WAY
def test_a_task_is_paused(containerd: Containerd, way: list[str]) -> None:
    """It is listed as such, takes no exec, and goes on afterwards."""
    with containerd.events() as events:
        containerd.ctr("run", "-d", *way, IMAGE, "c", "sleep", "1000")
        containerd.ctr("task", "pause", "c")
        assert "PAUSED" in _list(containerd)
        exec_ = ["task", "exec", "--exec-id", "e", "c", "true"]
        assert containerd.ctr(*exec_, check=False).returncode != 0
        containerd.ctr("task", "resume", "c")
        assert "RUNNING" in _list(containerd)
        assert containerd.ctr(*exec_).returncode == 0
        containerd.ctr("task", "kill", "-s", "KILL", "c")
        wait_for("the exit", lambda: "STOPPED" in _list(containerd))
        containerd.ctr("task", "delete", "c", check=False)
        expected = ["create", "start", "paused", "resumed", "exec-added"]
        expected += ["exec-started", "exit e", "delete e", "exit", "delete"]
        wait_for("the events", lambda: len(events.topics("c")) >= len(expected))
    assert events.topics("c") == expected
    containerd.ctr("container", "delete", "c")
    nothing_is_left(containerd)


@pytest.mark.feature("metrics")
@EACH_WAY
def test_metrics(containerd: Containerd, way: list[str]) -> None:
    """What ``ctr task metrics`` shows is what the container uses, and its limit."""
    limit = 64 << 20
    words = ["--memory-limit", str(limit), IMAGE, "c", "sleep", "1000"]
    containerd.ctr("run", "-d", *way, *words)
    said = containerd.ctr("task", "metrics", "--format", "json", "c").stdout
    memory = json.loads(said)["memory"]
    usage = (
        (memory["usage"], memory["usage_limit"])
        if IS_CGROUP_V2
        else (memory["usage"]["usage"], memory["usage"]["limit"])
    )
    assert 0 < usage[0] < usage[1] == limit
    containerd.ctr("task", "rm", "-f", "c", check=False)
    containerd.ctr("container", "delete", "c")
    nothing_is_left(containerd)


@pytest.mark.feature("an OOM kill is told before the exit")
@EACH_WAY
def test_an_oom_kill(containerd: Containerd, way: list[str]) -> None:
    """Who asks for the status finds that it was for want of memory."""
    words = ["--memory-limit", str(32 << 20), IMAGE, "c", "tail", "/dev/zero"]
    with containerd.events() as events:
        done = containerd.ctr("run", "--rm", *way, *words, check=False)
        expected = ["create", "start", "oom", "exit", "delete"]
        wait_for("the events", lambda: len(events.topics("c")) >= len(expected))
    assert 137 == done.returncode
    assert events.topics("c") == expected
    nothing_is_left(containerd)


def _list(containerd: Containerd) -> str:
    return containerd.ctr("task", "ls").stdout.decode()


@EACH
@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("/nope", "no such file or directory"),
        ("nope", "executable file not found"),
        ("/etc/plain", "permission denied"),
    ],
)
@pytest.mark.feature("clear errors")
def test_a_command_that_cannot_run_is_a_clear_error(
    containerd: Containerd, command: str, text: str
) -> None:
    """The client shows the runtime's reason, and nothing is left."""
    run = ["run", "--rm", *BY_NAME, IMAGE, "c", command]
    done = containerd.ctr(*run, check=False)
    assert done.returncode != 0
    assert b"OCI runtime create failed" in done.stderr
    assert text.encode() in done.stderr
    containerd.ctr("container", "delete", "c", check=False)
    nothing_is_left(containerd)


@EACH
@pytest.mark.feature("clear errors")
def test_an_unknown_runtime_binary_is_a_clear_error(containerd: Containerd) -> None:
    """The program is named; nothing is left."""
    run = ["run", "--rm", "--runc-binary", "/no/such/runc", IMAGE, "c", "true"]
    done = containerd.ctr(*run, check=False)
    assert done.returncode != 0
    assert b"/no/such/runc" in done.stderr
    containerd.ctr("container", "delete", "c", check=False)
    nothing_is_left(containerd)


@EACH
@pytest.mark.feature("exits during an outage are told")
def test_the_daemon_is_killed_while_tasks_exit(containerd: Containerd) -> None:
    """Tasks that end during an outage are told in order, once, when it is over.

    What a client that subscribes anew can see is a matter of luck, so the daemon's own
    log of what was forwarded is read.
    """
    names = [f"c{n}" for n in range(4)]
    for name in names:
        containerd.ctr("run", "-d", *BY_NAME, IMAGE, name, "sleep", "1000")
    pids = {name: _pid(containerd, name) for name in names}
    before = len(containerd.log())
    containerd.kill()
    for pid in pids.values():
        os.kill(int(pid), signal.SIGKILL)
    for pid in pids.values():
        wait_for("the exit", lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
    containerd.start()

    def forwarded() -> list[str]:
        log = containerd.log()[before:]
        pattern = rf'msg="event forwarded" ns={containerd.namespace} topic=(\S+)'
        return [topic.removeprefix("/tasks/") for topic in re.findall(pattern, log)]

    wait_for("the exits", lambda: forwarded().count("exit") >= len(names))
    assert _list(containerd).count("STOPPED") == len(names)
    for name in names:
        assert b"exit code 137" in containerd.ctr("task", "delete", name).stderr
        containerd.ctr("container", "delete", name)
    wait_for("the deletes", lambda: len(forwarded()) >= 2 * len(names))
    assert forwarded() == ["exit"] * 4 + ["delete"] * 4
    nothing_is_left(containerd)


def _pid(containerd: Containerd, name: str) -> str:
    for line in _list(containerd).splitlines():
        if line.split()[0] == name:
            return line.split()[1]
    raise AssertionError(f"{name} is not listed")


@EACH
@pytest.mark.feature("a shim that is killed leaves nothing")
def test_a_killed_shim_is_reported_and_buried(containerd: Containerd) -> None:
    """The daemon says the exit of a task whose shim was killed; nothing is left."""
    containerd.ctr("run", "-d", *BY_NAME, IMAGE, "c", "sleep", "1000")
    with containerd.events() as events:
        (shim,) = [
            pid
            for pid in pids_with(containerd.namespace)
            if b"-address" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        ]
        os.kill(shim, signal.SIGKILL)
        wait_for("the events", lambda: len(events.topics("c")) >= 2)
    assert events.topics("c") == ["exit", "delete"]
    assert events.tasks()[0][1]["exit_status"] == 137
    containerd.ctr("container", "delete", "c")
    nothing_is_left(containerd)
