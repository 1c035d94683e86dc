"""The command, driven as users do: processes, a state of its own, a real shim."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.machine import cgroups_named

from dunnage.bootstrap.address import socket_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dunnage.manager.places import Places

DUNNAGE = Path(sys.executable).parent / "dunnage"
PEERS = Path(os.environ.get("DUNNAGE_PEERS", Path(__file__).parents[2] / ".peers"))
STOCK = PEERS / "containerd-1.6/usr/bin/containerd-shim-runc-v2"
LIMIT_S = 30


@dataclass
class Cli:
    """``dunnage`` with a state, a namespace and a shim of its own."""

    runtime: str
    rootfs: Path
    places: Places

    def argv(self, *words: object) -> list[str]:
        """Return the command line of a command."""
        places = self.places
        return [
            *(str(DUNNAGE), "--state", str(places.state), "--root", str(places.root)),
            *("--namespace", places.namespace, *map(str, words)),
        ]

    def __call__(
        self, *words: object, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        argv = self.argv(*words)
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                out, err = process.communicate(stdin, timeout=LIMIT_S)
            finally:
                process.kill()
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def run_argv(self, *words: object) -> list[str]:
        """Return the command line of ``run`` with the shim and the root filesystem."""
        return self.argv(
            "run", "--runtime", self.runtime, "--rootfs", self.rootfs, *words
        )

    def run(
        self, *words: object, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a container."""
        given = ("--runtime", self.runtime, "--rootfs", self.rootfs)
        return self("run", *given, *words, stdin=stdin)

    def ps(self) -> dict[str, str]:
        """Return the status of each task."""
        lines = self("ps").stdout.decode().splitlines()[1:]
        rows = [line.split(maxsplit=2) for line in lines]
        return {name: rest.rpartition("  ")[0].strip() for name, _, rest in rows}

    def topics(self) -> list[str]:
        """Return the topics of the log, in order."""
        lines = self("events").stdout.decode().splitlines()
        return [line.split()[1].removeprefix("/tasks/") for line in lines]

    def shims(self) -> list[int]:
        """Return the pids of the shims that this state has."""
        mark = self.places.address.encode()
        return [
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if mark in _cmdline(entry)
        ]

    def leftovers(self, *names: str) -> list[str]:
        """Return what is there that should not be when no task is."""
        places = self.places
        parents = [
            places.bundles,
            places.works,
            places.fifos,
            places.runtime_root / places.namespace,
            *cgroups_named(f"dunnage/{places.namespace}"),
        ]
        found = [
            str(entry)
            for parent in parents
            if parent.is_dir()
            for entry in parent.iterdir()
            if entry.is_dir() or "cgroup" not in str(entry)
        ]
        files = [places.events_socket] + [
            socket_address(places.address, places.namespace, name).removeprefix(
                "unix://"
            )
            for name in names
        ]
        mounts = Path("/proc/self/mountinfo").read_text()
        found += [line for line in mounts.splitlines() if str(places.state) in line]
        found += [path for path in files if os.path.exists(path)]
        return found + [f"shim {pid}" for pid in self.shims()]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, with a limit."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


@contextmanager
def started(cli: Cli, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a container ``c`` in the foreground that has said ``ready``."""
    with subprocess.Popen(
        cli.run_argv("--rm", "c", "--", "sh", "-c", script),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def assert_one_line(ended: subprocess.CompletedProcess[bytes]) -> None:
    """Expect one line on stderr, by us, and nothing on stdout."""
    assert ended.stdout == b""
    assert ended.stderr.startswith(b"dunnage: ")
    assert ended.stderr.count(b"\n") == 1


def _cmdline(entry: Path) -> bytes:
    try:
        line = (entry / "cmdline").read_bytes()
    except OSError:
        return b""
    # Not the commands of this test itself.
    return line if b"-namespace" in line and b"--namespace" not in line else b""
