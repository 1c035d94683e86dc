"""Shims that are killed: whoever attends buries, and says what they did not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.driver import (
    LIMIT_S,
    STOCK,
    assert_one_line,
    started,
    wait_until,
)
from tests.machine import cgroups_named, pids_with
from tests.shim.altered import altered
from tests.shim.harness import spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.driver import Cli

pytestmark = pytest.mark.slow

LIFE = ["create", "start", "exit", "delete"]


def kill_shims(cli: Cli, starts: int = 1) -> None:
    """SIGKILL every shim of the state, when so many starts were said; see them off."""
    # What a shim has not said yet dies with it.
    wait_until(lambda: cli.topics().count("start") == starts, "the start is said")
    for pid in cli.shims():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not cli.shims(), "the shims are gone")


def detached(cli: Cli, *words: object) -> int:
    """Run a container ``c`` that nobody attends; return its init's pid."""
    assert cli.run("-d", *words, "c", "--", "sleep", "1000").returncode == 0
    return int((cli.places.bundles / "c/init.pid").read_text())


def statuses(cli: Cli) -> list[int]:
    """Return the exit statuses that exits and deletes told."""
    said = map(json.loads, cli("events", "--json").stdout.splitlines())
    ends = ("/tasks/exit", "/tasks/delete")
    return [it["event"]["exit_status"] for it in said if it["topic"] in ends]


def left(cli: Cli) -> list[str]:
    """Return what is left, also of what tasks share; not the stock shim's socket."""
    places = cli.places
    shared = [places.bundles, places.works, places.runtime_root / places.namespace]
    found = [str(path) for path in shared if path.exists()]
    found += map(str, cgroups_named(places.cgroup))
    is_stock = cli.runtime == str(STOCK)
    return found + [
        item for item in cli.leftovers("c") if not (is_stock and "containerd/s" in item)
    ]


def test_run_ends_with_what_delete_said(cli: Cli) -> None:
    """The attending manager says exit and delete, and ends with that status."""
    with started(cli, "echo ready; sleep 1000") as process:
        kill_shims(cli)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 137
    assert b"the shim of c has died" in err
    assert cli.topics() == LIFE
    assert statuses(cli) == [137, 137]
    assert left(cli) == []
    assert cli.run("--rm", "c", "--", "true").returncode == 0


@pytest.mark.parametrize(
    "words", [("ps",), ("rm", "c"), ("rm", "-f", "c"), ("events",)]
)
def test_whoever_comes_buries(cli: Cli, words: tuple[str, ...]) -> None:
    """What nobody attended is told and removed by the next command; once."""
    pid = detached(cli)
    kill_shims(cli)
    assert Path(f"/proc/{pid}").exists()
    assert cli(*words).returncode == 0
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "init is reaped")
    assert cli.ps() == {}
    assert cli.topics() == LIFE
    assert left(cli) == []


def test_a_follower_buries(cli: Cli) -> None:
    """`events --follow` tells the end of a shim that dies while it looks on."""
    detached(cli)
    argv = cli.argv("events", "--follow")
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            for topic in LIFE:
                assert topic in process.stdout.readline().decode().split()[1]
                if topic == "start":
                    kill_shims(cli)
        finally:
            process.terminate()
    wait_until(lambda: left(cli) == [], "it is buried")


def test_many_managers_bury_once(cli: Cli) -> None:
    """However many come at once, each event is said once, and `run` ends well."""
    with started(cli, "echo ready; sleep 1000") as process:
        kill_shims(cli)
        others = [
            subprocess.Popen(
                cli.argv("ps"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for _ in range(5)
        ]
        process.communicate(timeout=LIMIT_S)
        assert [other.wait(LIMIT_S) for other in others] == [0] * 5
    assert process.returncode == 137
    assert cli.topics() == LIFE
    assert left(cli) == []


def test_what_the_shim_said_is_not_repeated(cli: Cli) -> None:
    """An exit that is in the log is not said again; the delete has its status."""
    assert cli.run("c", "--", "sh", "-c", "exit 6").returncode == 6
    kill_shims(cli)
    assert cli("rm", "c").returncode == 0
    assert cli.topics() == LIFE
    assert statuses(cli) == [6, 6]
    # Nor does an earlier life of that name count.
    with started(cli, "echo ready; sleep 1000") as process:
        kill_shims(cli, starts=2)
        assert process.wait(LIMIT_S) == 137
    assert cli.topics() == LIFE * 2
    assert statuses(cli) == [6, 6, 137, 137]


def test_an_exec_whose_shim_dies(cli: Cli) -> None:
    """Its client is told that nothing is known; the container is told and buried."""
    detached(cli)
    argv = cli.argv("exec", "c", "--", "sh", "-c", "echo ready; sleep 1000")
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        kill_shims(cli)
        assert process.wait(LIMIT_S) == 125
    assert [topic for topic in cli.topics() if "exec" not in topic] == LIFE
    assert left(cli) == []


def test_a_delete_that_fails_says_nothing(cli: Cli) -> None:
    """Then nobody knows: the task stays, as dead, until it works or by force."""
    detached(cli)
    kill_shims(cli)
    binary = cli.places.bundles / "c/shim-binary-path"
    good = binary.read_text()
    binary.write_text("/bin/false")
    assert cli.ps() == {"c": "dead"}
    ended = cli("rm", "c")
    assert ended.returncode == 125
    assert_one_line(ended)
    assert cli.topics() == ["create", "start"]
    binary.write_text(good)
    assert cli("rm", "c").returncode == 0
    assert cli.topics() == LIFE
    assert left(cli) == []


def wrapped(directory: Path, command: str, when: str) -> Path:
    """Return a runtime that stops before or after a command, once."""
    wrapper = directory / "wrapped"
    do = {"before": "", "after": 'runc "$@" || exit'}[when]
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *" {command} "*)\n'
        f"if mkdir {directory}/once 2>/dev/null; then\n"
        f"{do}\ntouch {directory}/stopped; {directory}/parked 1000; fi;; esac\n"
        'exec runc "$@"\n'
    )
    wrapper.chmod(0o755)
    (directory / "parked").symlink_to("/bin/sleep")
    return wrapper


@contextmanager
def stopping(directory: Path, argv: list[str]) -> Iterator[Any]:
    """Run a command up to where its runtime stops."""
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        wait_until((directory / "stopped").exists, "the runtime stops")
        try:
            yield process
        finally:
            process.kill()
            for pid in pids_with(str(directory)):  # the stock shim leaves it
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_during_create(cli: Cli, tmp_path: Path, when: str) -> None:
    """`run` ends with an error, and a container that never was has no events."""
    runtime = wrapped(tmp_path, "create", when)
    run = ("--rm", "--oci-runtime", runtime, "c", "--", "sleep", "1000")
    with stopping(tmp_path, cli.run_argv(*run)) as process:
        assert "c" in cli.ps()  # which leaves alone what is half made
        kill_shims(cli, starts=0)
        assert process.wait(LIMIT_S) == 125
        assert process.stderr.read().count(b"\n") == 1
        if cli.runtime.startswith("io."):
            assert pids_with(str(tmp_path)) == []
            assert left(cli) == []
    assert cli.topics() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("is_attended", [True, False])
def test_killed_during_start(
    cli: Cli, tmp_path: Path, when: str, is_attended: bool
) -> None:
    """delete-then-speak: it was created, and perhaps ran: `run` says how it ended."""
    runtime = wrapped(tmp_path, "start", when)
    how = "--rm" if is_attended else "-d"
    run = (how, "--oci-runtime", runtime, "c", "--", "sleep", "1000")
    with stopping(tmp_path, cli.run_argv(*run)) as process:
        wait_until(lambda: cli.topics() == ["create"], "the create is said")
        kill_shims(cli, starts=0)
        assert process.wait(LIMIT_S) == (137 if is_attended else 125)
        assert process.stderr.read().count(b"\n") == 1
        if cli.runtime.startswith("io."):
            assert pids_with(str(tmp_path)) == []
            assert left(cli) == []
    # The start was never said, so it may not have been.
    assert cli.topics() == ["create", "exit", "delete"]
    assert statuses(cli) == [137, 137]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_during_the_start_of_an_exec(
    cli: Cli, tmp_path: Path, when: str
) -> None:
    """Its client learns of the shim's death at once, and buries the container."""
    runtime = wrapped(tmp_path, "exec", when)
    detached(cli, "--oci-runtime", runtime)
    with stopping(tmp_path, cli.argv("exec", "c", "--", "sleep", "1000")) as process:
        kill_shims(cli)
        assert process.wait(LIMIT_S) == 125
        assert process.stderr.read().count(b"\n") == 1
        # Nobody else came by.
        assert not (cli.places.bundles / "c").exists()
        assert [topic for topic in cli.topics() if "exec" not in topic] == LIFE
        if cli.runtime.startswith("io."):
            assert pids_with(str(tmp_path)) == []
            assert left(cli) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_during_delete(cli: Cli, tmp_path: Path, when: str) -> None:
    """delete-then-speak: `rm` ends well, and says only what is unsaid."""
    runtime = wrapped(tmp_path, "delete", when)
    run = ("--oci-runtime", runtime, "c", "--", "sh", "-c", "exit 6")
    assert cli.run(*run).returncode == 6
    with stopping(tmp_path, cli.argv("rm", "c")) as process:
        kill_shims(cli)
        assert process.wait(LIMIT_S) == 0
        assert process.stderr.read().count(b"\n") == 1
        if cli.runtime.startswith("io."):
            assert pids_with(str(tmp_path)) == []
            assert left(cli) == []
    assert cli.topics() == LIFE
    assert statuses(cli) == [6, 6]


# Where a shim dies of its Delete: what that shim does else.
AT_DELETE = {
    "asked": """
from dunnage.shim import service
async def delete(*_):
    die()
service.TaskService.delete = delete
""",
    "removed": """
from dunnage.drivers.runc import container
delete = container.RuncContainer.delete
async def delete_and_die(self):
    await delete(self)
    die()
container.RuncContainer.delete = delete_and_die
""",
    "said": """
from dunnage.shim import service
delete = service.TaskService._delete_task
async def delete_and_die(self, entry):
    await delete(self, entry)
    import asyncio
    await asyncio.sleep(0.5)
    die()
service.TaskService._delete_task = delete_and_die
""",
    "answered": """
from dunnage.publish.outbox import Outbox
from dunnage.shim import service
put = Outbox.put
Outbox.put = lambda self, it: type(it).__name__ == "TaskDelete" or put(self, it)
async def shutdown(*_):
    die()
service.TaskService.shutdown = shutdown
""",
}


@pytest.fixture(params=AT_DELETE)
def dying(request: pytest.FixtureRequest, cli: Cli, tmp_path: Path) -> Cli:
    """The command with a shim of ours that kills itself at Delete."""
    cli.runtime = str(altered(tmp_path, AT_DELETE[request.param]))
    return cli


OURS = pytest.mark.parametrize("cli", ["ours"], indirect=True)


@OURS
def test_run_when_delete_kills(dying: Cli) -> None:
    """delete-then-speak: `run` ends as its container, and the end is said once."""
    ended = dying.run("--rm", "c", "--", "sh", "-c", "exit 6")
    assert ended.returncode == 6
    assert ended.stdout == b""
    assert ended.stderr.count(b"\n") <= 1
    assert dying.topics() == LIFE
    assert statuses(dying) == [6, 6]
    assert left(dying) == []


@OURS
@pytest.mark.parametrize("words", [("rm", "c"), ("rm", "-f", "c")])
def test_rm_when_delete_kills(dying: Cli, words: tuple[str, ...]) -> None:
    """delete-then-speak: so does `rm`, of one that runs too."""
    if "-f" in words:
        detached(dying)
    else:
        assert dying.run("c", "--", "sh", "-c", "exit 6").returncode == 6
    ended = dying(*words)
    assert ended.returncode == 0
    assert ended.stderr.count(b"\n") <= 1
    assert dying.topics() == LIFE
    assert statuses(dying) == [137 if "-f" in words else 6] * 2
    assert left(dying) == []


@OURS
def test_a_failed_start_when_delete_kills(cli: Cli, tmp_path: Path) -> None:
    """What was created and could not be started is told, and why it could not."""
    fails = """
from dunnage.drivers.runc import container
from dunnage.errors import Unknown
async def start(self):
    raise Unknown("OCI runtime start failed: no")
container.RuncContainer.start = start
"""
    cli.runtime = str(altered(tmp_path, AT_DELETE["asked"] + fails))
    ended = cli.run("--rm", "c", "--", "sleep", "1000")
    assert ended.returncode == 125
    assert b"OCI runtime start failed: no" in ended.stderr
    assert cli.topics() == ["create", "exit", "delete"]
    assert statuses(cli) == [137, 137]
    assert left(cli) == []


@OURS
def test_a_delete_that_kills_and_fails(cli: Cli, tmp_path: Path) -> None:
    """delete-then-speak: when `delete` fails too, `run` says so, and nothing else."""
    cli.runtime = str(altered(tmp_path, AT_DELETE["removed"]))
    once = tmp_path / "once"
    fails = f"if 'delete' in sys.argv and not os.path.exists('{once}'): sys.exit(1)"
    binary = Path(cli.runtime)
    good = binary.read_text()
    binary.write_text(good.replace("def die", f"{fails}\ndef die"))
    ended = cli.run("--rm", "c", "--", "sh", "-c", "exit 6")
    assert ended.returncode == 125
    assert b"failed to delete shim" in ended.stderr
    assert cli.topics() == LIFE[:3]
    assert cli.ps() == {"c": "dead"}
    once.touch()
    assert cli("rm", "c").returncode == 0
    assert cli.topics() == LIFE
    assert statuses(cli) == [6, 6]
    assert left(cli) == []


def test_a_paused_one(cli: Cli) -> None:
    """Frozen processes end, too, and nothing of the freezer stays."""
    pid = detached(cli)
    assert cli("pause", "c").returncode == 0
    kill_shims(cli)
    cli.ps()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "init is reaped")
    # The pause dies with the shim, if nobody received it.
    assert [topic for topic in cli.topics() if topic != "paused"] == LIFE
    assert statuses(cli) == [137, 137]
    assert left(cli) == []


@pytest.mark.parametrize("is_paused", [True, False])
def test_with_the_host_s_pids(cli: Cli, tmp_path: Path, is_paused: bool) -> None:
    """All its processes end, not only init, and an exec's with them."""
    script = "sleep 1000 & echo ready; sleep 1000"
    config = spec(["sh", "-c", script], root={"path": str(cli.rootfs)})
    namespaces = config["linux"]["namespaces"]
    config["linux"] = {"namespaces": [it for it in namespaces if it["type"] != "pid"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    argv = cli.argv("run", "--rm", "--runtime", cli.runtime, "--bundle", tmp_path, "c")
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            groups = cgroups_named(f"{cli.places.cgroup}/c")
            members = {
                int(pid)
                for group in groups
                for pid in (group / "cgroup.procs").read_text().split()
            }
            assert len(members) > 1
            if is_paused:
                assert cli("pause", "c").returncode == 0
            kill_shims(cli)
            process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == 137
    for pid in members:
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "all end")  # type: ignore[misc]
    assert [topic for topic in cli.topics() if topic != "paused"] == LIFE
    assert left(cli) == []


def pod(cli: Cli, directory: Path) -> tuple[object, ...]:
    """Return how to run a container that is one of a pod."""
    config = spec(
        ["sleep", "1000"],
        annotations={"io.containerd.runc.v2.group": "pod"},
        root={"path": str(cli.rootfs)},
    )
    del config["linux"]["cgroupsPath"]
    (directory / "config.json").write_text(json.dumps(config))
    return ("run", "-d", "--runtime", cli.runtime, "--bundle", directory)


@OURS
def test_a_pod_when_delete_kills(dying: Cli, tmp_path: Path) -> None:
    """buried-once: one is told by who removes it, its sibling by the next command."""
    run = pod(dying, tmp_path)
    for name in ("c", "d"):
        assert dying(*run, name).returncode == 0
    assert dying("rm", "-f", "c").returncode == 0
    wait_until(lambda: not dying.shims(), "the shim is gone")
    assert dying.ps() == {}
    said = map(json.loads, dying("events", "--json").stdout.splitlines())
    told = [(it["event"]["container_id"], it["topic"][7:]) for it in said]
    for name in ("c", "d"):
        assert [topic for id_, topic in told if id_ == name] == LIFE
    assert statuses(dying) == [137] * 4
    assert left(dying) == []


def test_a_pod(cli: Cli, tmp_path: Path) -> None:
    """All members are told and buried, also when a new shim listens in its place."""
    run = pod(cli, tmp_path)
    for name in ("c", "d"):
        assert cli(*run, name).returncode == 0
    assert len(cli.shims()) == 1
    kill_shims(cli, starts=2)
    assert cli(*run, "e").returncode == 0
    assert cli.ps() == {"e": "running"}
    said = map(json.loads, cli("events", "--json").stdout.splitlines())
    ends = [it for it in said if it["topic"] in ("/tasks/exit", "/tasks/delete")]
    told = [(it["event"]["container_id"], it["event"]["exit_status"]) for it in ends]
    assert told == [("c", 137)] * 2 + [("d", 137)] * 2
    assert cli("rm", "-f", "e").returncode == 0
    assert left(cli) == []


@OURS  # the stock shim just ends
@pytest.mark.parametrize("words", [("ps",), ("rm", "c"), ("rm", "-f", "c")])
def test_one_that_leaves_speaks_for_itself(cli: Cli, words: tuple[str, ...]) -> None:
    """dead-is-gone: what it has not said yet is received from it, and said once."""
    pid = detached(cli)
    wait_until(lambda: cli.topics() == LIFE[:2], "the start is said")
    os.kill(pid, signal.SIGKILL)
    record = cli.places.bundles / "c/dunnage-exit.json"
    wait_until(record.exists, "its exit, which nobody receives")
    (shim,) = cli.shims()
    os.kill(shim, signal.SIGTERM)
    wait_until(lambda: not is_listening(cli), "the socket is withdrawn")
    assert cli.shims() == [shim]
    assert cli(*words).returncode == 0
    assert cli.shims() == []
    assert cli.topics() == LIFE
    assert statuses(cli) == [137, 137]
    assert left(cli) == []


def is_listening(cli: Cli) -> bool:
    """Tell whether the socket of ``c`` is there."""
    return any("containerd/s" in item for item in cli.leftovers("c"))
