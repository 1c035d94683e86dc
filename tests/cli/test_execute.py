"""``dunnage exec``, for real."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.cli.driver import LIMIT_S, assert_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.driver import Cli

pytestmark = pytest.mark.slow

BEFORE = ["create", "start"]
EXEC = ["exec-added", "exec-started", "exit"]


@pytest.fixture(autouse=True)
def running(cli: Cli) -> Iterator[None]:
    """Have a container ``c`` run; expect nothing left of it in the end."""
    assert cli.run("-d", "c", "--", "sleep", "1000").returncode == 0
    yield
    assert cli("rm", "-f", "c").returncode == 0
    assert cli.leftovers("c") == []


def test_status_and_output(cli: Cli) -> None:
    """The exit status is the exec's; output and errors go where they belong."""
    ended = cli("exec", "c", "--", "sh", "-c", "echo out; echo err >&2; exit 4")
    assert (4, b"out\n", b"err\n") == (ended.returncode, ended.stdout, ended.stderr)
    assert cli.topics()[:5] == BEFORE + EXEC


@pytest.mark.parametrize(
    ("command", "status"), [("nope", 127), ("/nope", 127), ("/etc/plain", 126)]
)
def test_cannot_start(cli: Cli, command: str, status: int) -> None:
    """What is not there is 127, what cannot be executed 126; the container lives on."""
    ended = cli("exec", "c", "--", command)
    assert ended.returncode == status, ended.stderr
    assert_one_line(ended)
    assert cli("exec", "c", "--", "true").returncode == 0


def test_no_command(cli: Cli) -> None:
    """An exec of nothing is an error of ours."""
    ended = cli("exec", "c")
    assert ended.returncode == 125
    assert_one_line(ended)


def test_stdin(cli: Cli) -> None:
    """With -i our stdin is the exec's, its end too."""
    data = os.urandom(100_000)
    ended = cli("exec", "-i", "c", "--", "cat", stdin=data)
    assert (ended.returncode, ended.stdout == data) == (0, True)


def test_signal(cli: Cli) -> None:
    """A signal reaches the exec and not the container."""
    script = "trap 'kill $!; exit 9' TERM; echo ready; sleep 1000 & wait"
    with subprocess.Popen(
        cli.argv("exec", "c", "--", "sh", "-c", script), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 9
    assert cli.ps() == {"c": "running"}


def test_after_the_end(cli: Cli) -> None:
    """A container that has stopped runs nothing more."""
    assert cli("kill", "c", "9").returncode == 0
    ended = cli("exec", "c", "--", "true")
    assert ended.returncode == 125
    assert_one_line(ended)
