"""``dunnage ps``, ``kill`` and ``rm``, for real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cli.driver import STOCK, assert_one_line, started, wait_until

if TYPE_CHECKING:
    from tests.cli.driver import Cli

pytestmark = pytest.mark.slow


def test_detached_life(cli: Cli) -> None:
    """A detached container is listed, signalled, and removed when it has stopped."""
    assert cli.run("-d", "c", "--", "sleep", "1000").stdout == b""
    assert cli.ps() == {"c": "running"}
    assert cli("kill", "c", "KILL").returncode == 0
    wait_until(lambda: cli.ps() == {"c": "stopped (137)"}, "the container stops")
    assert cli("rm", "c").returncode == 0
    assert cli.ps() == {}
    assert cli.topics() == ["create", "start", "exit", "delete"]
    assert cli.leftovers("c") == []


def test_kill_says_term(cli: Cli) -> None:
    """Without a signal it is SIGTERM."""
    with started(cli, "trap 'exit 8' TERM; echo ready; sleep 1000 & wait") as process:
        assert cli("kill", "c").returncode == 0
        assert process.wait(30) == 8


@pytest.mark.parametrize("signal_text", ["FOO", "SIGFOO", "0", "65", "-1", "1.5"])
def test_unknown_signal(cli: Cli, signal_text: str) -> None:
    """A signal that there is not is an error of ours."""
    ended = cli("kill", "c", "--", signal_text)
    assert ended.returncode == 125
    assert_one_line(ended)


@pytest.mark.parametrize(
    "words",
    [
        ("kill", "nope"),
        ("rm", "nope"),
        ("rm", "-f", "nope"),
        ("exec", "nope", "--", "true"),
        ("rm", "../c"),
    ],
)
def test_no_such_task(cli: Cli, words: tuple[str, ...]) -> None:
    """A task that there is not is an error of ours."""
    ended = cli(*words)
    assert ended.returncode == 125
    assert_one_line(ended)


def test_rm_of_a_running_one(cli: Cli) -> None:
    """A running container is only removed by force, and says its end then, too."""
    assert cli.run("-d", "c", "--", "sleep", "1000").returncode == 0
    ended = cli("rm", "c")
    assert ended.returncode == 125
    assert_one_line(ended)
    assert b"is running" in ended.stderr
    assert cli.ps() == {"c": "running"}
    assert cli("rm", "--force", "c").returncode == 0
    assert cli.topics() == ["create", "start", "exit", "delete"]
    assert cli.leftovers("c") == []


def test_namespaces_are_apart(cli: Cli) -> None:
    """A task is not seen from another namespace."""
    assert cli.run("-d", "c", "--", "sleep", "1000").returncode == 0
    assert cli("--namespace", "another", "ps").stdout.splitlines()[1:] == []
    assert cli("rm", "-f", "c").returncode == 0


def test_pause_and_resume(cli: Cli) -> None:
    """A paused container says so, refuses to be removed, and goes on when resumed."""
    assert cli.run("-d", "c", "--", "sleep", "1000").returncode == 0
    assert cli("pause", "c").returncode == 0
    assert cli.ps() == {"c": "paused"}
    for refused in (cli("pause", "c"), cli("rm", "c")):
        assert refused.returncode == 125
        assert_one_line(refused)
        assert b"paused" in refused.stderr
    assert cli("resume", "c").returncode == 0
    assert cli.ps() == {"c": "running"}
    assert cli("pause", "c").returncode == 0
    assert cli("rm", "-f", "c").returncode == 0
    said = ["create", "start", "paused", "resumed", "paused", "exit", "delete"]
    if cli.runtime == str(STOCK):
        # What nobody was there to take it sends again later, out of order, or not at
        # all: it was seen to lose the first pause.
        assert {"create", "start", "exit", "delete"} <= set(cli.topics()) <= set(said)
    else:
        assert cli.topics() == said
    assert cli.leftovers("c") == []
