"""A shim that is killed, at every stage, under containerd 1.6: ours beside Debian's.

What the daemon says, and what becomes of a sibling, is as with the stock shim; what is
left is nothing, of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import indent
from typing import TypeAlias

import pytest
from tests.machine import cgroups_named, pids_with
from tests.shim.altered import altered
from tests.shim.test_delete import IN_A_SHIM

from dunnage.bootstrap import address

from .daemon import IMAGE, Containerd, peer, wait_for

pytestmark = pytest.mark.slow

STOCK = "stock"
OURS = "ours"
BOTH = pytest.mark.parametrize("whose", [OURS, STOCK])

Done: TypeAlias = subprocess.CompletedProcess[bytes]

# Ours leaves nothing for longer; the stock shim leaves things for good.
LEFT_LIMIT_S = {OURS: 5.0, STOCK: 0.0}

# Stops where it is told, by a file that names a command; tells that it is there.
WRAPPER = """#!/bin/sh
here=HERE
for word; do case $word in
    create|start|exec|delete|pause) command=$word; break;;
esac; done
if [ "$command" = "$(cat $here/stop-before 2>/dev/null)" ]; then
    touch $here/stopped; $here/parked 1000
fi
if [ "$command" = "$(cat $here/stop-after 2>/dev/null)" ]; then
    runc "$@" || exit; touch $here/stopped; $here/parked 1000
fi
exec runc "$@"
"""


class Stage:
    """A daemon, one kind of shim, and a runtime that stops when it is told to."""

    def __init__(self, daemon: Containerd, whose: str) -> None:
        self.daemon = daemon
        self._left_limit_s = LEFT_LIMIT_S[whose]
        runtime = daemon.directory / "wrapped-runc"
        runtime.write_text(WRAPPER.replace("HERE", str(daemon.directory)))
        runtime.chmod(0o755)
        self.runtime = str(runtime)
        self.parked = str(daemon.directory / "parked")
        os.symlink("/bin/sleep", self.parked)
        binary = {
            STOCK: peer("containerd-1.6", "containerd-shim-runc-v2"),
            OURS: daemon.directory / "bin/containerd-shim-dunnage-v2",
        }[whose]
        # Options are given to this name only (ctr): both are in the stock shim's place.
        link = daemon.directory / "bin/containerd-shim-runc-v2"
        link.unlink()
        link.symlink_to(binary)

    def run_argv(self, name: str, *words: str) -> list[str]:
        """Return ctr's words for a container that stays, its image's or a config's."""
        run = ["run", "-d", "--runc-binary", self.runtime, *words]
        return [*run, name] if words else [*run, IMAGE, name, "sleep", "1000"]

    def stop(self, where: str, command: str) -> None:
        """Have the runtime stop ``before`` or ``after`` it did a command."""
        (self.daemon.directory / f"stop-{where}").write_text(command)

    def stopped(self) -> None:
        """Wait until it has; it will not stop again."""
        wait_for("the runtime", (self.daemon.directory / "stopped").exists)
        # Or a test that ends it would look for it too early.
        wait_for("its stop", lambda: bool(pids_with(self.parked)))
        for file in self.daemon.directory.glob("stop*"):
            file.unlink()

    def kill_shims(self) -> None:
        """SIGKILL every shim of the daemon's namespace."""
        self._kill(deletes=False)

    def kill_deletes(self) -> None:
        """SIGKILL every shim binary that does a delete."""
        self._kill(deletes=True)

    def _kill(self, *, deletes: bool) -> None:
        for pid in pids_with(self.daemon.namespace):
            with contextlib.suppress(OSError):
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                is_shim = b"containerd-shim" in b"".join(argv[:2])
                if is_shim and (b"delete" in argv) == deletes:
                    os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def calling(self, *words: str) -> Iterator[Callable[[], Done]]:
        """Call ctr beside what the block does; what came of it is to be had there."""
        said: list[Done] = []
        thread = threading.Thread(
            target=lambda: said.append(self.daemon.ctr(*words, check=False))
        )
        thread.start()

        def ended() -> Done:
            thread.join()
            return said[0]

        try:
            yield ended
        finally:
            thread.join()

    def left(self) -> list[str]:
        """Name what is there that should not be; waits for the last steps."""
        with contextlib.suppress(AssertionError):
            wait_for("the end", lambda: not self._left(), limit_s=self._left_limit_s)
        return self._left()

    def _left(self) -> list[str]:
        daemon = self.daemon
        words = (daemon.namespace, self.runtime, self.parked)
        pids = {pid for word in words for pid in pids_with(word)}
        found = [f"process {pid}" for pid in pids if not _is_recorder(pid)]
        if daemon.bundles.exists():
            found += map(str, daemon.bundles.iterdir())
        if f"/{daemon.namespace}/" in Path("/proc/self/mountinfo").read_text():
            found.append("a mount")
        parents = cgroups_named(daemon.namespace)
        found += [str(group) for it in parents for group in it.glob("*/")]
        found += map(str, Path("/run/containerd/runc").glob(f"{daemon.namespace}/*"))
        for group in ("c", "d", "pod"):
            where = address.socket_address(str(daemon.address), daemon.namespace, group)
            if os.path.exists(address.unix_name(where)):
                found.append(where)
        return found


def _is_recorder(pid: int) -> bool:
    """Tell whether a process is the ctr that records events, or gone."""
    with contextlib.suppress(OSError):
        return b"events" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return True


def config(
    stage: Stage,
    name: str,
    namespaces: Sequence[str] = ("pid", "ipc", "uts", "mount"),
    **changes: object,
) -> tuple[str, str]:
    """Return ctr's words for a config.json of ours: init has a child."""
    daemon = stage.daemon
    rootfs = daemon.directory / "rootfs"
    if not rootfs.exists():
        (rootfs / "bin").mkdir(parents=True)
        (rootfs / "proc").mkdir()
        subprocess.run(["cp", "/bin/busybox", rootfs / "bin/sh"], check=True)
        (rootfs / "bin/sleep").symlink_to("sh")
    spec = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", "sleep 1000 & sleep 1000"],
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": {"path": str(rootfs)},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/{daemon.namespace}/{name}",
            "namespaces": [{"type": kind} for kind in namespaces],
        },
    }
    path = daemon.directory / f"{name}.json"
    path.write_text(json.dumps(spec | changes))
    return "--config", str(path)


def in_cgroup(daemon: Containerd, name: str) -> set[int]:
    """Return the processes of a container."""
    return {
        int(pid)
        for group in cgroups_named(f"{daemon.namespace}/{name}")
        for pid in (group / "cgroup.procs").read_text().split()
    }


def sweep(stage: Stage) -> None:
    """End what the stock shim has left."""
    wrapped = pids_with(stage.runtime) + pids_with(stage.parked)
    for pid in in_cgroup(stage.daemon, "c") | in_cgroup(stage.daemon, "d"):
        wrapped.append(pid)
    for pid in wrapped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in ("c", "d"):
        for group in cgroups_named(f"{stage.daemon.namespace}/{name}"):
            with contextlib.suppress(OSError):
                group.rmdir()


@BOTH
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("pids", ["own-pids", "host-pids"])
def test_during_create(
    containerd: Containerd, whose: str, where: str, pids: str
) -> None:
    """Create is an error and no event; of ours nothing is left, nor comes later."""
    stage = Stage(containerd, whose)
    words = config(stage, "c", ("ipc", "mount")) if pids == "host-pids" else ()
    stage.stop(where, "create")
    with containerd.events() as events:
        with stage.calling(*stage.run_argv("c", *words)) as ended:
            stage.stopped()
            stage.kill_shims()
            done = ended()
        left = stage.left()
        topics = events.topics("c")
    sweep(stage)
    assert done.returncode != 0
    assert b"ttrpc: closed" in done.stderr
    assert topics == []
    assert whose == STOCK or left == []


@BOTH
@pytest.mark.parametrize("situation", ["created", "started", "running", "paused"])
@pytest.mark.parametrize("pid_namespace", [("pid",), ()], ids=["own-pids", "host-pids"])
def test_with_a_container(
    containerd: Containerd,
    whose: str,
    situation: str,
    pid_namespace: tuple[str, ...],
) -> None:
    """The daemon says exit 137 and delete, once; nothing of the container is left."""
    stage = Stage(containerd, whose)
    words = config(stage, "c", (*pid_namespace, "ipc", "uts", "mount"))
    with containerd.events() as events, contextlib.ExitStack() as stack:
        if situation in ("created", "started"):
            stage.stop("before" if situation == "created" else "after", "start")
            stack.enter_context(stage.calling(*stage.run_argv("c", *words)))
            stage.stopped()
        else:
            containerd.ctr(*stage.run_argv("c", *words))
        if situation == "paused":
            root = f"/run/containerd/runc/{containerd.namespace}"
            subprocess.run(["runc", "--root", root, "pause", "c"], check=True)
        assert in_cgroup(containerd, "c")
        stage.kill_shims()
        wait_for("the end", lambda: "delete" in events.topics("c"))
        left = stage.left()
        tasks = events.tasks()
    sweep(stage)
    assert [topic for topic, _ in tasks][-2:] == ["exit", "delete"]
    assert [topic for topic, _ in tasks].count("exit") == 1
    assert [fields["exit_status"] for _, fields in tasks[-2:]] == [137, 137]
    assert whose == STOCK or left == []


@BOTH
@pytest.mark.parametrize("situation", ["starting", "started", "running"])
def test_with_an_exec(containerd: Containerd, whose: str, situation: str) -> None:
    """Of an exec nothing is said, and nothing is left either; its client is told."""
    stage = Stage(containerd, whose)
    containerd.ctr(*stage.run_argv("c", *config(stage, "c", ("ipc", "mount"))))
    if situation != "running":
        stage.stop("before" if situation == "starting" else "after", "exec")
    count = len(in_cgroup(containerd, "c"))
    exec_ = ["task", "exec", "--exec-id", "e", "c", "sleep", "2000"]
    with containerd.events() as events:
        with stage.calling(*exec_) as ended:
            if situation != "running":
                stage.stopped()
            else:
                wait_for("the exec", lambda: len(in_cgroup(containerd, "c")) > count)
                wait_for("its event", lambda: "exec-started" in events.topics("c"))
            stage.kill_shims()
            wait_for("the end", lambda: "delete" in events.topics("c"))
            done = ended()
        left = stage.left()
        topics = events.topics("c")
    sweep(stage)
    assert done.returncode != 0
    assert topics[-2:] == ["exit", "delete"]
    assert "exit e" not in topics
    assert whose == STOCK or left == []


@BOTH
@pytest.mark.parametrize("where", ["before", "after"])
def test_during_delete(containerd: Containerd, whose: str, where: str) -> None:
    """The daemon repeats init's exit: with its true status if the shim is ours."""
    stage = Stage(containerd, whose)
    words = ["sh", "-c", "exit 7"]
    with containerd.events() as events:
        containerd.ctr(*stage.run_argv("c")[:-2], *words)
        wait_for("the exit", lambda: "exit" in events.topics("c"))
        stage.stop(where, "delete")
        with stage.calling("task", "delete", "c") as ended:
            stage.stopped()
            stage.kill_shims()
            ended()
        wait_for("the end", lambda: "delete" in events.topics("c"))
        left = stage.left()
        tasks = events.tasks()
    sweep(stage)
    assert [topic for topic, _ in tasks][-3:] == ["exit", "exit", "delete"]
    said = [fields["exit_status"] for _, fields in tasks[-3:]]
    # The stock shim's `delete` does not know what its server knew.
    assert said == ([7, 7, 7] if whose == OURS else [7, 137, 137])
    assert whose == STOCK or left == []


@pytest.mark.parametrize("removed", IN_A_SHIM)
def test_amid_a_delete_without_the_runtime(
    containerd: Containerd, removed: str
) -> None:
    """It kills itself between two steps of its own removal: nothing is left at all."""
    stage = Stage(containerd, OURS)
    # Not in the daemon's `delete`, which has to do the rest.
    fault = "if 'delete' not in sys.argv:\n" + indent(IN_A_SHIM[removed], "    ")
    link = containerd.directory / "bin/containerd-shim-runc-v2"
    link.unlink()
    link.symlink_to(altered(containerd.directory, fault))
    with containerd.events() as events:
        containerd.ctr("run", "-d", IMAGE, "c", "sh", "-c", "exit 7")
        wait_for("the exit", lambda: "exit" in events.topics("c"))
        containerd.ctr("task", "delete", "c", check=False)
        wait_for("the end", lambda: "delete" in events.topics("c"))
        left = stage.left()
        tasks = events.tasks()
    assert [topic for topic, _ in tasks][-3:] == ["exit", "exit", "delete"]
    assert [fields["exit_status"] for _, fields in tasks[-3:]] == [7, 7, 7]
    assert left == []


@BOTH
@pytest.mark.parametrize("where", ["before", "after"])
def test_and_its_delete_is_killed_too(
    containerd: Containerd, whose: str, where: str
) -> None:
    """The daemon gives an unknown status; what it finds at its next start is buried."""
    stage = Stage(containerd, whose)
    containerd.ctr(*stage.run_argv("c", *config(stage, "c")))
    stage.stop(where, "delete")
    with containerd.events() as events:
        stage.kill_shims()
        stage.stopped()
        stage.kill_deletes()
        # The runtime dies with it; what a script in its place has called does not.
        for pid in pids_with(stage.parked):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for("the end", lambda: "delete" in events.topics("c"))
        tasks = events.tasks()
    assert containerd.bundles.exists()
    containerd.kill()
    containerd.start()
    left = stage.left()
    sweep(stage)
    assert [topic for topic, _ in tasks] == ["exit", "delete"]
    assert [fields["exit_status"] for _, fields in tasks] == [255, 255]
    assert whose == STOCK or left == []


@BOTH
def test_with_a_sibling(containerd: Containerd, whose: str) -> None:
    """The whole pod ends: each of its containers is told and buried once."""
    stage = Stage(containerd, whose)
    group = {"io.containerd.runc.v2.group": "pod"}
    for name in ("c", "d"):
        words = config(stage, name, annotations=group)
        containerd.ctr(*stage.run_argv(name, *words))
    with containerd.events() as events:
        stage.kill_shims()
        for name in ("c", "d"):
            wait_for("the end", lambda name=name: "delete" in events.topics(name))  # type: ignore[misc]
        left = stage.left()
        topics = [events.topics(name) for name in ("c", "d")]
    sweep(stage)
    assert topics == [["exit", "delete"]] * 2
    assert whose == STOCK or left == []


@BOTH
@pytest.mark.parametrize("situation", ["start", "exec", "paused", "delete"])
def test_at_a_stage_beside_a_sibling(
    containerd: Containerd, whose: str, situation: str
) -> None:
    """Whatever it was at with one of its containers, the sibling is told and buried."""
    stage = Stage(containerd, whose)
    group = {"io.containerd.runc.v2.group": "pod"}
    words = config(stage, "d", annotations=group)
    containerd.ctr(*stage.run_argv("d", *words))
    args = ["sh", "-c", "exit 7"] if situation == "delete" else ["sleep", "1000"]
    process = {"user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/"}
    process["env"] = ["PATH=/bin"]
    run = stage.run_argv("c", *config(stage, "c", annotations=group, process=process))
    with containerd.events() as events, contextlib.ExitStack() as stack:
        if situation == "start":
            stage.stop("before", "start")
            stack.enter_context(stage.calling(*run))
            stage.stopped()
        else:
            containerd.ctr(*run)
        if situation == "exec":
            stage.stop("before", "exec")
            argv = ["task", "exec", "--exec-id", "e", "c", "sleep", "2000"]
            stack.enter_context(stage.calling(*argv))
            stage.stopped()
        elif situation == "paused":
            containerd.ctr("task", "pause", "c")
        elif situation == "delete":
            wait_for("the exit", lambda: "exit" in events.topics("c"))
            stage.stop("before", "delete")
            stack.enter_context(stage.calling("task", "delete", "c"))
            stage.stopped()
        stage.kill_shims()
        for name in ("c", "d"):
            wait_for("the end", lambda name=name: "delete" in events.topics(name))  # type: ignore[misc]
        left = stage.left()
        topics = [events.topics(name) for name in ("c", "d")]
    sweep(stage)
    assert topics[1] == ["exit", "delete"]
    assert topics[0][-2:] == ["exit", "delete"]
    assert topics[0].count("exit") == (2 if situation == "delete" else 1)
    assert whose == STOCK or left == []


@BOTH
@pytest.mark.parametrize("where", ["before", "after"])
def test_during_create_beside_a_sibling(
    containerd: Containerd, whose: str, where: str
) -> None:
    """The create fails without an event; the sibling is told and buried."""
    stage = Stage(containerd, whose)
    group = {"io.containerd.runc.v2.group": "pod"}
    words = {name: config(stage, name, annotations=group) for name in ("c", "d")}
    containerd.ctr(*stage.run_argv("c", *words["c"]))
    stage.stop(where, "create")
    with containerd.events() as events:
        with stage.calling(*stage.run_argv("d", *words["d"])) as ended:
            stage.stopped()
            stage.kill_shims()
            assert ended().returncode != 0
        wait_for("the end", lambda: "delete" in events.topics("c"))
        left = stage.left()
        topics = [events.topics(name) for name in ("c", "d")]
    sweep(stage)
    assert topics == [["exit", "delete"], []]
    assert whose == STOCK or left == []
