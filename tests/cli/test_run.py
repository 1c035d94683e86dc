"""``dunnage run``, for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.driver import LIMIT_S, assert_one_line, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.driver import Cli

pytestmark = pytest.mark.slow

LIFE = ["create", "start", "exit", "delete"]


@pytest.mark.parametrize("status", [0, 3, 255])
def test_status_is_the_containers(cli: Cli, status: int) -> None:
    """The exit status is the container's; output and errors go where they belong."""
    ended = cli.run(
        "--rm", "c", "--", "sh", "-c", f"echo out; echo err >&2; exit {status}"
    )
    assert (status, b"out\n", b"err\n") == (
        ended.returncode,
        ended.stdout,
        ended.stderr,
    )
    assert cli.topics() == LIFE
    assert cli.leftovers("c") == []


def test_killed_by_signal(cli: Cli) -> None:
    """A container killed by a signal has 128 and the signal as its status."""
    ended = cli.run("--rm", "c", "--", "sh", "-c", "sh -c 'kill -9 $$'; exit $?")
    assert ended.returncode == 137


@pytest.mark.parametrize(
    ("command", "status"),
    [("nope", 127), ("/nope", 127), ("/etc/plain", 126), ("/etc", 126)],
)
def test_cannot_start(cli: Cli, command: str, status: int) -> None:
    """What is not there is 127, what cannot be executed 126; nothing stays."""
    ended = cli.run("--rm", "c", "--", command)
    assert ended.returncode == status, ended.stderr
    assert_one_line(ended)
    assert cli.leftovers("c") == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--rm", "a/b", "--", "true"), "name"),
        (("--rm", "..", "--", "true"), "name"),
        (("--rm", "c"), "command"),
        (("-d", "--rm", "c", "--", "true"), "nobody is left to remove it"),
        (("-d", "-i", "c", "--", "true"), "nobody is left to copy"),
        (("--oci-runtime", "nope", "c", "--", "true"), "OCI runtime nope"),
        (("--runtime", "io.containerd.nope.v2", "c", "--", "true"), "shim-nope-v2"),
        (("--runtime", "/nope", "c", "--", "true"), "/nope"),
        (("--runtime", "a/b", "c", "--", "true"), "invalid runtime name"),
        (("--runtime", "/bin/false", "c", "--", "true"), "exit status 1"),
        (("--rootfs", "/nope", "c", "--", "true"), "no such directory"),
        (("--no-such-flag", "c", "--", "true"), "no-such-flag"),
    ],
)
def test_own_errors(cli: Cli, words: tuple[str, ...], text: str) -> None:
    """An error of ours is 125 and one line that says what is wrong; nothing stays."""
    ended = cli.run(*words)
    assert ended.returncode == 125
    assert_one_line(ended)
    assert text in ended.stderr.decode()
    assert cli.leftovers("c") == []


def test_duplicate_name(cli: Cli) -> None:
    """A second container of a name is refused, and the first lives on."""
    assert cli.run("-d", "c", "--", "sleep", "1000").returncode == 0
    ended = cli.run("--rm", "c", "--", "true")
    assert ended.returncode == 125
    assert b"task c: already exists" in ended.stderr
    assert cli.ps() == {"c": "running"}
    assert cli("rm", "-f", "c").returncode == 0


@pytest.mark.parametrize(
    ("config", "text"),
    [(None, "not found"), ("{", "config.json"), ("[]", "object"), ("{}", "process")],
)
def test_bad_bundle(cli: Cli, tmp_path: Path, config: str | None, text: str) -> None:
    """A missing or broken config.json is an error of ours."""
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    ended = cli("run", "--runtime", cli.runtime, "--bundle", tmp_path, "c")
    assert ended.returncode == 125
    assert_one_line(ended)
    assert text in ended.stderr.decode()
    assert cli.leftovers("c") == []


@pytest.mark.parametrize("command", [(), ("--", "echo", "other")])
def test_bundle(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A bundle as `runc spec` makes it runs, its command or another."""
    subprocess.run(["runc", "spec", "--bundle", tmp_path], check=True)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["process"]["args"] = ["echo", "own"]
    config["process"].pop("rlimits")  # not ours to raise everywhere
    config["root"]["path"] = os.path.relpath(cli.rootfs, tmp_path)
    path.write_text(json.dumps(config))
    ended = cli(
        *("run", "--rm", "--runtime", cli.runtime, "--bundle", tmp_path, "c", *command)
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == (b"other\n" if command else b"own\n")
    assert cli.leftovers("c") == []


def test_stdin_from_a_pipe(cli: Cli) -> None:
    """With -i our stdin is the container's, its end too."""
    data = os.urandom(300_000)
    ended = cli.run("--rm", "-i", "c", "--", "cat", stdin=data)
    assert (ended.returncode, ended.stdout == data) == (0, True)


def test_stdin_from_a_file(cli: Cli, tmp_path: Path) -> None:
    """A file, which epoll does not take, works for stdin and for stdout."""
    data = os.urandom(300_000)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        subprocess.run(
            cli.run_argv("--rm", "-i", "c", "--", "cat"),
            stdin=source,
            stdout=sink,
            timeout=LIMIT_S,
            check=True,
        )
    assert (tmp_path / "out").read_bytes() == data


def test_without_i_stdin_is_left_alone(cli: Cli) -> None:
    """Without -i the container reads nothing."""
    ended = cli.run("--rm", "c", "--", "cat", stdin=b"not for you")
    assert (ended.returncode, ended.stdout) == (0, b"")


def test_reader_that_goes(cli: Cli) -> None:
    """A container whose output nobody reads any more still ends as it would."""
    with subprocess.Popen(
        cli.run_argv("--rm", "c", "--", "sh", "-c", "seq 200000; exit 5"),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        process.stdout.close()
        assert process.wait(LIMIT_S) == 5
    assert cli.leftovers("c") == []


def test_signals_are_forwarded(cli: Cli) -> None:
    """SIGTERM reaches the container's init, and its answer is our status."""
    script = "trap 'echo bye; exit 9' TERM; echo ready; sleep 1000 & wait"
    with started(cli, script) as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, out) == (9, b"bye\n")
    assert cli.leftovers("c") == []


def test_third_signal_kills(cli: Cli) -> None:
    """A container that ignores SIGINT is killed by the third."""
    script = "trap 'echo again' INT; echo ready; while :; do sleep 1000 & wait; done"
    with started(cli, script) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == b"again\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 137
    assert cli.leftovers("c") == []


def test_killed_manager(cli: Cli) -> None:
    """A container outlives a `run` that is killed, and can be removed."""
    with started(cli, "echo ready; sleep 1000") as process:
        process.kill()
    assert cli.ps() == {"c": "running"}
    assert cli("exec", "c", "--", "true").returncode == 0
    assert cli("rm", "-f", "c").returncode == 0
    rest = [item for item in cli.leftovers("c") if str(cli.places.fifos) not in item]
    assert rest == []


def test_timeline(cli: Cli) -> None:
    """The timeline comes after the end, with the events of this container only."""
    cli.run("--rm", "other", "--", "true")
    ended = cli.run("--rm", "--timeline", "c", "--", "echo", "out")
    assert ended.stdout == b"out\n"
    lines = ended.stderr.decode().splitlines()
    assert [line.split()[3] for line in lines] == [f"/tasks/{topic}" for topic in LIFE]


def test_without_rm_it_stays(cli: Cli) -> None:
    """Without --rm the stopped task stays, with its status, until it is removed."""
    assert cli.run("c", "--", "sh", "-c", "exit 6").returncode == 6
    assert cli.ps() == {"c": "stopped (6)"}
    assert cli.topics() == ["create", "start", "exit"]
    assert cli("rm", "c").returncode == 0
    assert cli.topics() == LIFE
    assert cli.leftovers("c") == []


def test_crun(cli: Cli) -> None:
    """The OCI runtime can be chosen."""
    argv = cli.run_argv(
        "--rm", "--oci-runtime", "crun", "c", "--", "sh", "-c", "exit 4"
    )
    mounts = Path("/proc/self/mountinfo").read_text()
    if " /sys/fs/cgroup/unified " in mounts and " - cgroup2 " in mounts:
        # crun 1.8 refuses hybrid cgroups; script/test hides them for good.
        hide = 'umount "$0" && mount -t tmpfs none "$0" && exec "$@"'
        argv = ["unshare", "--mount", "sh", "-c", hide, "/sys/fs/cgroup/unified", *argv]
    ended = subprocess.run(argv, capture_output=True, timeout=LIMIT_S, check=False)
    assert (ended.returncode, ended.stderr) == (4, b"")
    assert cli.leftovers("c") == []


@pytest.fixture
def full_disk(cli: Cli) -> Iterator[None]:
    """A state directory with room for the log and little else."""
    cli.places.state.mkdir(parents=True)
    options = "size=64k,nr_inodes=8"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", cli.places.state], check=True
    )
    yield
    subprocess.run(["umount", cli.places.state], check=True)


@pytest.mark.usefixtures("full_disk")
def test_full_disk(cli: Cli) -> None:
    """With no room for a bundle, the error says so and nothing of it stays."""
    ended = cli.run("--rm", "c", "--", "true")
    assert ended.returncode == 125
    assert_one_line(ended)
    assert b"No space left on device" in ended.stderr
    assert [item for item in cli.leftovers("c") if " - tmpfs " not in item] == []
