"""``dunnage events``, for real: who receives, and what is seen."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.cli.driver import LIMIT_S, wait_until

if TYPE_CHECKING:
    from tests.cli.driver import Cli

pytestmark = pytest.mark.slow

LIFE = ["create", "start", "exit", "delete"]


def test_json(cli: Cli) -> None:
    """Each event is one JSON object, with its fields by name."""
    cli.run("--rm", "c", "--", "sh", "-c", "exit 3")
    found = [json.loads(line) for line in cli("events", "--json").stdout.splitlines()]
    assert [event["topic"].removeprefix("/tasks/") for event in found] == LIFE
    assert {event["namespace"] for event in found} == {cli.places.namespace}
    assert found[2]["type"] == "containerd.events.TaskExit"
    assert found[2]["event"]["container_id"] == "c"
    assert found[2]["event"]["exit_status"] == 3
    assert found[0]["event"]["rootfs"][0]["source"] == str(cli.rootfs)


def test_follow_while_another_receives(cli: Cli) -> None:
    """Events reach whoever follows, whichever process receives them."""
    cli.run("--rm", "before", "--", "true")
    with (
        subprocess.Popen(cli.argv("events", "-f"), stdout=subprocess.PIPE) as first,
        subprocess.Popen(cli.argv("events", "-f"), stdout=subprocess.PIPE) as second,
    ):
        for process in (first, second):
            assert topics(process, 4) == LIFE
        cli.run("--rm", "c", "--", "true")
        for process in (first, second):
            assert topics(process, 4) == LIFE
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == 130
    assert cli.leftovers("c", "before") == []


def test_successor_of_a_killed_receiver(cli: Cli) -> None:
    """When the receiver is killed, the next one takes over and misses nothing."""
    with (
        subprocess.Popen(cli.argv("events", "-f"), stdout=subprocess.PIPE) as first,
    ):
        wait_until(lambda: "listening" in listening(cli), "the first one listens")
        with subprocess.Popen(
            cli.argv("events", "-f"), stdout=subprocess.PIPE
        ) as second:
            assert cli.run("-d", "c", "--", "sleep", "1000").returncode == 0
            assert topics(second, 2) == LIFE[:2]
            first.kill()
            first.wait()
            assert cli("kill", "c", "KILL").returncode == 0
            assert topics(second, 1) == ["exit"]
            assert cli("rm", "c").returncode == 0
            assert topics(second, 1) == ["delete"]
            second.send_signal(signal.SIGTERM)
            assert second.wait(LIMIT_S) == 130
    assert cli.topics() == LIFE
    assert cli.leftovers("c") == []


def test_reader_that_goes(cli: Cli) -> None:
    """`events | head -1` ends without a complaint."""
    cli.run("--rm", "c", "--", "true")
    script = '"$@" | head -n 1'
    ended = subprocess.run(
        ["sh", "-c", script, "sh", *cli.argv("events")],
        capture_output=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert b"/tasks/create" in ended.stdout
    assert ended.stderr == b""


@pytest.mark.parametrize("cli", ["ours"], indirect=True)
def test_nobody_there_when_it_ends(cli: Cli) -> None:
    """A container that ends while nobody receives has its exit told to the next one.

    Debian's shim gives up after a while, and loses its place in the order.
    """
    assert cli.run("-d", "c", "--", "true").returncode == 0
    wait_until(lambda: cli.ps() == {"c": "stopped (0)"}, "the container ends")
    assert cli("rm", "c").returncode == 0
    assert cli.topics() == LIFE


def topics(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """Return the topics of the next lines."""
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(count)]
    return [line.split()[1].removeprefix("/tasks/") for line in lines]


def listening(cli: Cli) -> str:
    """Tell whether somebody is at the socket."""
    code = "import socket, sys; socket.socket(1).connect(sys.argv[1])"
    argv = [sys.executable, "-c", code, cli.places.events_socket]
    ended = subprocess.run(argv, capture_output=True, check=False)
    return "listening" if ended.returncode == 0 else "nobody"
