"""``dunnage install`` and ``uninstall`` under a real containerd, and what runs there.

Changing over under running containers, in both directions, is what the claim of
`dunnage.cli.install.command` rests on: nothing has to be stopped first.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.machine import pids_with

from dunnage.cli.install.programs import launcher

from .daemon import IMAGE, Containerd, peer, wait_for
from .test_containerd import BY_NAME, nothing_is_left

pytestmark = pytest.mark.slow

DUNNAGE = Path(launcher()).parent / "dunnage"
OURS = "containerd-shim-dunnage-v2"
THEIRS = "containerd-shim-runc-v2"


class Host:
    """A daemon that looks for shims in a directory of its own first, and tasks."""

    def __init__(self, daemon: Containerd, into: Path) -> None:
        self.daemon = daemon
        self.into = into

    def dunnage(self, *words: str) -> tuple[int, str]:
        """Run a command on the directory; return its status and all it says."""
        argv = [str(DUNNAGE), *words, "--into", str(self.into)]
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def run(self, name: str, *words: str) -> None:
        """Start a container that stays."""
        self.daemon.ctr("run", "-d", *words, IMAGE, name, "sleep", "1000")

    def shim(self, name: str) -> int:
        """Return the pid of the shim that was started for a container."""
        word = f"\0{name}\0"
        pids = pids_with(f"-namespace\0{self.daemon.namespace}")
        (pid,) = [p for p in pids if word in _argv(p)]
        return pid

    def is_ours(self, name: str) -> bool:
        """Tell whether a container's shim is ours."""
        return "python" in os.readlink(f"/proc/{self.shim(name)}/exe")

    def running(self) -> set[str]:
        """Return the names of the tasks that run."""
        lines = self.daemon.ctr("task", "ls").stdout.decode().splitlines()[1:]
        return {line.split()[0] for line in lines if line.split()[2] == "RUNNING"}

    def restart(self) -> None:
        """Restart the daemon."""
        self.daemon.kill()
        self.daemon.start()

    def remove(self, name: str) -> None:
        """End a container as clients do, and see its true status."""
        self.daemon.ctr("task", "kill", "-s", "KILL", name)
        wait_for("the exit", lambda: name not in self.running())
        assert b"exit code 137" in self.daemon.ctr("task", "delete", name).stderr
        self.daemon.ctr("container", "delete", name)

    def lose(self, name: str) -> None:
        """Kill a container's shim, and see the daemon bury the container."""
        os.kill(self.shim(name), signal.SIGKILL)
        wait_for("the burial", lambda: not (self.daemon.bundles / name).exists())
        assert name not in self.running()
        self.daemon.ctr("container", "delete", name)


def _argv(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _pod(name: str) -> list[str]:
    return ["--annotation", f"io.kubernetes.cri.sandbox-id={name}"]


@pytest.fixture(params=["containerd-1.6", "containerd-2.1"])
def host(tmp_path: Path, image: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A daemon with its own stock shim in a directory that comes first."""
    into = tmp_path / "bin"
    into.mkdir()
    shutil.copy(peer(request.param, THEIRS), into)
    path = f"{into}:{os.environ['PATH']}:/usr/sbin:/sbin"
    daemon = Containerd(tmp_path, request.param, path)
    try:
        daemon.start()
        daemon.ctr("images", "import", str(image))
        yield Host(daemon, into)
    finally:
        daemon.close()


def test_by_name(host: Host) -> None:
    """The runtime's name works from then on, and not any more; none is lost."""
    run = ["run", "--rm", *BY_NAME, IMAGE, "c", "echo", "hello"]
    assert host.daemon.ctr(*run, check=False).returncode != 0
    host.daemon.ctr("container", "delete", "c", check=False)
    status, said = host.dunnage("install")
    assert (0, True) == (status, f") finds {host.into / OURS}\n" in said)
    assert b"hello\n" == host.daemon.ctr(*run).stdout
    assert 0 == host.dunnage("install", "--check")[0]

    host.run("stays", *BY_NAME)
    host.run("other")
    assert (True, False) == (host.is_ours("stays"), host.is_ours("other"))
    status, said = host.dunnage("uninstall")
    assert (125, True) == (status, f"{host.daemon.namespace}/stays were" in said)
    assert "other" not in said
    assert (host.into / OURS).is_symlink()
    for name in ("stays", "other"):
        host.remove(name)
    assert 0 == host.dunnage("uninstall")[0]
    host.restart()
    assert host.daemon.ctr(*run, check=False).returncode != 0
    host.daemon.ctr("container", "delete", "c", check=False)
    nothing_is_left(host.daemon)


def test_forced_away(host: Host) -> None:
    """What the refusal warns of is so: a restarted daemon knows the task no more."""
    host.dunnage("install")
    host.run("c", *BY_NAME)
    shim = host.shim("c")
    assert 0 == host.dunnage("uninstall", "--force")[0]
    host.restart()
    assert set() == host.running()
    assert Path(f"/proc/{shim}").exists()
    # The next who brings the shim back can end it, by hand.
    host.dunnage("install")
    os.kill(shim, signal.SIGKILL)
    bundle = host.daemon.bundles / "c"
    bundle.mkdir(exist_ok=True)
    argv = [str(host.into / OURS), "-namespace", host.daemon.namespace, "-id", "c"]
    argv += ["-address", str(host.daemon.address), "delete"]
    subprocess.run(argv, cwd=bundle, check=True, capture_output=True)
    shutil.rmtree(bundle)


def test_a_change_over_under_running_containers(host: Host) -> None:
    """Who was there lives on, in pods too, and ends in order: there and back."""
    runtime_root = host.daemon.directory / "runtime-root"
    odd = ["--runc-root", str(runtime_root)]
    host.run("ends", *odd)
    host.run("dies", *odd)
    host.run("pod", *_pod("pod"))
    host.run("stays")
    assert not any(map(host.is_ours, ("ends", "dies", "pod", "stays")))

    status, said = host.dunnage("install", "--as-stock")
    assert (0, True) == (status, f") finds {host.into / THEIRS}\n" in said)
    host.remove("ends")
    host.lose("dies")
    assert [] == [*(runtime_root / host.daemon.namespace).glob("*")]
    host.run("member", *_pod("pod"))  # by our start, in the shim of the stock's
    assert [host.shim("pod")] == _shims_of(host, "pod", "member")
    for name in ("new", "will-die"):
        host.run(name, *odd)
        assert host.is_ours(name)
    host.run("pod-2", *_pod("pod-2"))
    host.restart()
    everyone = {"pod", "stays", "member", "new", "will-die", "pod-2"}
    assert everyone == host.running()

    assert 0 == host.dunnage("uninstall")[0]
    host.run("member-2", *_pod("pod-2"))  # by the stock's start, in our shim
    assert [host.shim("pod-2")] == _shims_of(host, "pod-2", "member-2")
    assert host.is_ours("pod-2")
    host.restart()
    assert {*everyone, "member-2"} == host.running()
    host.lose("will-die")
    assert [] != [*(runtime_root / host.daemon.namespace).glob("new")]
    for name in ("pod", "stays", "member", "new", "pod-2", "member-2"):
        host.remove(name)
    assert [] == [*(runtime_root / host.daemon.namespace).glob("*")]
    host.run("last")
    assert not host.is_ours("last")
    host.remove("last")
    nothing_is_left(host.daemon)


def _shims_of(host: Host, *names: str) -> list[int]:
    """Return the shims whose command line has one of the containers."""
    pids = pids_with(f"-namespace\0{host.daemon.namespace}")
    return [p for p in pids if any(f"\0{name}\0" in _argv(p) for name in names)]


def test_a_container_that_ours_could_not_bury(host: Host) -> None:
    """Where a live container's shim has left no options, the place is not taken."""
    host.run("c")
    options = host.daemon.bundles / "c/options.json"
    content = options.read_bytes()
    options.unlink()
    try:
        status, said = host.dunnage("install", "--as-stock")
        assert (125, True) == (status, f"{host.daemon.namespace}/c were" in said)
        assert [THEIRS] == os.listdir(host.into)
    finally:
        options.write_bytes(content)
    assert 0 == host.dunnage("install", "--as-stock")[0]
    host.remove("c")
    nothing_is_left(host.daemon)


def test_a_daemon_that_looks_elsewhere(host: Host, tmp_path: Path) -> None:
    """It is told, with where it looks."""
    host.into = tmp_path / "elsewhere"
    host.into.mkdir()
    status, said = host.dunnage("install")
    assert (0, True) == (status, "add " + str(host.into) + " to its PATH" in said)
    status, said = host.dunnage("install", "--check")
    assert (1, True) == (status, f"does not find {OURS}" in said)
    assert f"{tmp_path}/bin, " in said


def test_another_shim_comes_first(host: Host, tmp_path: Path) -> None:
    """It is told which."""
    stock = host.into / THEIRS
    host.into = tmp_path / "elsewhere"
    host.into.mkdir()
    status, said = host.dunnage("install", "--as-stock")
    assert (0, True) == (status, f"finds {stock}, which is another's, first" in said)
    assert 1 == host.dunnage("install", "--check")[0]
