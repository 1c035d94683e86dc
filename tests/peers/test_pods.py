"""Containers of one pod under a real containerd."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.machine import pids_with

from .daemon import IMAGE, Containerd, errors, wait_for
from .test_containerd import BY_NAME, EACH, LIFE, nothing_is_left

pytestmark = pytest.mark.slow

POD = ["--annotation", "io.kubernetes.cri.sandbox-id=pod"]
AT_A_TIME = 3
ROUNDS = 6


def shims(daemon: Containerd) -> list[int]:
    """Return the pids of the servers; a ``start`` under way is none."""
    return pids_with(f"-namespace {daemon.namespace}".replace(" ", "\0"))


@pytest.mark.feature("pods")
@EACH
def test_a_pod_has_one_shim(containerd: Containerd) -> None:
    """Two containers, one process; it stays for the second and leaves with it."""
    for name in ("a", "b"):
        run = ["run", "-d", *BY_NAME, *POD, IMAGE, name, "sleep", "1000"]
        containerd.ctr(*run)
        assert 1 == len(shims(containerd))
    for name in ("a", "b"):
        assert 1 == len(shims(containerd))
        containerd.ctr("task", "kill", "-s", "KILL", name)
        wait_for("the exit", lambda name=name: _status(containerd, name) == "STOPPED")  # type: ignore[misc]
        containerd.ctr("task", "delete", name)
        containerd.ctr("container", "delete", name)
    nothing_is_left(containerd)


def _status(daemon: Containerd, name: str) -> str:
    lines = daemon.ctr("task", "ls").stdout.decode().splitlines()
    return next(line.split()[2] for line in lines if line.startswith(f"{name} "))


@pytest.mark.feature("pods")
@EACH
def test_members_come_while_others_leave(containerd: Containerd) -> None:
    """kept-for-those-who-come: each run has its shim, its status, and its events."""

    def run_some(worker: int) -> list[subprocess.CompletedProcess[bytes]]:
        return [
            containerd.ctr(
                *("run", "--rm", *BY_NAME, *POD, IMAGE, f"c{worker}-{round_}"),
                *("sh", "-c", f"echo {worker}; exit {10 + worker}"),
                check=False,
            )
            for round_ in range(ROUNDS)
        ]

    with containerd.events() as events, ThreadPoolExecutor(AT_A_TIME) as pool:
        ended = list(pool.map(run_some, range(AT_A_TIME)))
        names = [f"c{w}-{r}" for w in range(AT_A_TIME) for r in range(ROUNDS)]
        for name in names:
            wait_for(
                f"the events of {name}",
                lambda name=name: len(events.topics(name)) >= len(LIFE),  # type: ignore[misc]
            )
    for worker, runs in enumerate(ended):
        for run in runs:
            said = (run.returncode, run.stdout, errors(run))
            assert (10 + worker, f"{worker}\n".encode(), []) == said
    assert [LIFE] * len(names) == [events.topics(name) for name in names]
    nothing_is_left(containerd)
