"""nerdctl, whose containers in the background log by ``binary://``.

It takes minutes to build and is no part of the default peers: where it was not brought
(``script/peers nerdctl``) these are skipped, and `test_logs` holds the contract alone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .daemon import IMAGE, LIMIT_S, PEERS, Containerd, wait_for
from .test_containerd import nothing_is_left

PROGRAM = PEERS / "nerdctl/usr/bin/nerdctl"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM.exists(), reason="script/peers nerdctl brings it"),
]

Nerdctl = Callable[..., str]


@pytest.fixture
def nerdctl(containerd: Containerd, tmp_path: Path) -> Nerdctl:
    """nerdctl, with a place of its own."""
    own = {
        "--address": containerd.address,
        "--namespace": containerd.namespace,
        "--data-root": tmp_path / "nerdctl",
        "--cni-netconfpath": tmp_path / "cni",
        "--cgroup-manager": "cgroupfs",
    }
    flags = [str(word) for pair in own.items() for word in pair]

    def call(*words: str) -> str:
        done = subprocess.run(
            [PROGRAM, *flags, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S * 2,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{words}: {said}\n{containerd.log()}"
        return said

    return call


@pytest.mark.feature("nerdctl run -d and logs")
@pytest.mark.parametrize("runtime", ["io.containerd.dunnage.v2", "crun", "runc"])
def test_run_in_the_background_and_logs(
    containerd: Containerd, nerdctl: Nerdctl, runtime: str
) -> None:
    """``nerdctl run -d``, ``logs`` while it runs and afterwards, ``rm``."""
    script = "echo out; echo err >&2; seq 1 5000; exec sleep 1000"
    options = ["--net", "none", "--name", "n", "--runtime", runtime]
    nerdctl("run", "-d", *options, IMAGE, "sh", "-c", script)
    lines = {"out", "err", *map(str, range(1, 5001))}
    wait_for("its logs", lambda: set(nerdctl("logs", "n").split()) == lines)
    nerdctl("kill", "n")
    nerdctl("wait", "n")
    assert lines == set(nerdctl("logs", "n").split())
    nerdctl("rm", "n")
    nothing_is_left(containerd)


@pytest.mark.feature("nerdctl run -d and logs")
def test_of_a_terminal(containerd: Containerd, nerdctl: Nerdctl) -> None:
    """``nerdctl run -d -t`` and ``logs``."""
    options = ["-t", "--net", "none", "--name", "n"]
    nerdctl("run", "-d", *options, IMAGE, "sh", "-c", "tty; echo last")
    nerdctl("wait", "n")
    wait_for("its logs", lambda: "last" in nerdctl("logs", "n"))
    assert "/dev/pts/0" in nerdctl("logs", "n")
    nerdctl("rm", "n")
    nothing_is_left(containerd)
