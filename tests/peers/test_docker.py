"""Our shim under a real Docker engine: as a runtime of its own, and in runc's place."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest
from tests.machine import pids_with

from .daemon import Containerd, wait_for
from .docker import IMAGE, Docker
from .test_containerd import nothing_is_left

pytestmark = [
    pytest.mark.slow,
    pytest.mark.peer("docker 26"),
    pytest.mark.parametrize("containerd", ["containerd-1.7"], indirect=True),
]

KILLED = 137
EACH_WAY = pytest.mark.parametrize("way", ["dunnage", "runc"])


@pytest.fixture
def docker(containerd: Containerd) -> Iterator[Docker]:
    """A running engine with an image."""
    engine = Docker(containerd)
    try:
        engine.start()
        engine.load()
        yield engine
    finally:
        engine.close()


def run(way: str, *words: str) -> list[str]:
    """Return docker's words for a container."""
    return ["run", "--runtime", way, "--network", "none", *words]


@pytest.mark.feature("run: output and exit status", "stdin")
@EACH_WAY
def test_a_container_as_a_command(
    docker: Docker, containerd: Containerd, way: str
) -> None:
    """Output, errors, stdin and status are its own; nothing is left."""
    script = "cat; echo err >&2; exit 7"
    words = run(way, "--rm", "-i", IMAGE, "sh", "-c", script)
    done = docker.call(*words, stdin=b"hello\n", check=False)
    assert (7, b"hello\n", b"err\n") == (done.returncode, done.stdout, done.stderr)
    nothing_is_left(containerd)


@pytest.mark.feature("detached tasks, ps, exec, kill, delete", "pause and resume")
@EACH_WAY
def test_a_container_in_the_background(
    docker: Docker, containerd: Containerd, way: str
) -> None:
    """exec, top, logs, pause, stop; each does what it says."""
    script = "trap 'echo bye; exit 3' TERM; echo hi; while :; do sleep 0.1; done"
    docker.call(*run(way, "-d", "--name", "one", IMAGE, "sh", "-c", script))
    done = docker.call("exec", "one", "sh", "-c", "echo in; exit 5", check=False)
    assert (5, b"in\n") == (done.returncode, done.stdout)
    assert b"trap" in docker.call("top", "one").stdout
    docker.call("pause", "one")
    assert docker.state("one")["Paused"]
    docker.call("unpause", "one")
    docker.call("stop", "one")
    assert b"hi\nbye\n" == docker.call("logs", "one").stdout
    assert 3 == docker.state("one")["ExitCode"]
    docker.call("start", "one")
    docker.call("kill", "one")
    wait_for("the end", lambda: docker.state("one")["Status"] == "exited")
    assert KILLED == docker.state("one")["ExitCode"]
    docker.call("rm", "one")
    nothing_is_left(containerd)


@pytest.mark.feature("restart policies")
@EACH_WAY
def test_a_container_that_is_to_be_restarted(
    docker: Docker, containerd: Containerd, way: str
) -> None:
    """Docker starts it anew in the same bundle, as often as it was told to."""
    words = run(way, "-d", "--restart", "on-failure:3", "--name", "one")
    docker.call(*words, IMAGE, "sh", "-c", "echo once; exit 1")
    wait_for("four lives", lambda: docker.call("logs", "one").stdout == b"once\n" * 4)
    wait_for("the end", lambda: docker.state("one")["Status"] == "exited")
    docker.call("rm", "one")
    nothing_is_left(containerd)


@pytest.mark.feature("clear errors")
def test_a_command_that_cannot_run(docker: Docker, containerd: Containerd) -> None:
    """Docker tells its kinds of failure apart by the shim's text."""
    for command, status in (("nope", 127), ("/etc/plain", 126)):
        done = docker.call(*run("dunnage", "--rm", IMAGE, command), check=False)
        assert status == done.returncode, done.stderr
    nothing_is_left(containerd)


@pytest.mark.feature("a shim that is killed leaves nothing")
def test_a_shim_that_is_killed(docker: Docker, containerd: Containerd) -> None:
    """The engine hears that the container has ended, and nothing is left of it."""
    docker.call(*run("dunnage", "-d", "--name", "one", IMAGE, "sleep", "1000"))
    (shim,) = pids_with(f"-namespace\0{containerd.namespace}\0")
    os.kill(shim, signal.SIGKILL)
    wait_for("the end", lambda: docker.state("one")["Status"] == "exited")
    assert KILLED == docker.state("one")["ExitCode"]
    docker.call("rm", "one")
    nothing_is_left(containerd)


@pytest.mark.feature("exits during an outage are told")
def test_an_engine_that_is_killed(docker: Docker, containerd: Containerd) -> None:
    """With live-restore containers go on, and what ended meanwhile is known."""
    for name in ("lives", "ends"):
        docker.call(*run("dunnage", "-d", "--name", name, IMAGE, "sleep", "1000"))
    pid = int(json.dumps(docker.state("ends")["Pid"]))
    docker.kill()
    os.kill(pid, signal.SIGTERM)  # an init takes no notice
    os.kill(pid, signal.SIGKILL)
    docker.start()
    wait_for("the end", lambda: docker.state("ends")["Status"] == "exited")
    assert KILLED == docker.state("ends")["ExitCode"]
    assert "running" == docker.state("lives")["Status"]
    assert b"here\n" == docker.call("exec", "lives", "echo", "here").stdout
    docker.call("rm", "-f", "lives", "ends")
    nothing_is_left(containerd)
