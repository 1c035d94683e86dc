"""A Docker engine of our own, above a containerd of our own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path

from tests.machine import pids_with
from tests.shim.harness import make_rootfs

from .daemon import LIMIT_S, PEERS, Containerd, wait_for

IMAGE = "busybox"


class Docker:
    """One engine; its containers are in the containerd's namespace.

    Our shim is its runtime ``dunnage``; ``runc`` is whatever shim that daemon finds.
    """

    def __init__(self, containerd: Containerd) -> None:
        self._containerd = containerd
        self._directory = containerd.directory / "docker"
        self._directory.mkdir()
        self._host = f"unix://{self._directory}/d.sock"
        self._process: subprocess.Popen[bytes] | None = None
        runtimes = {"dunnage": {"runtimeType": "io.containerd.dunnage.v2"}}
        config = {
            "runtimes": runtimes,
            "data-root": str(self._directory / "root"),
            "exec-root": str(self._directory / "exec"),
            "pidfile": str(self._directory / "pid"),
            "hosts": [self._host],
            "containerd": str(containerd.address),
            "containerd-namespace": containerd.namespace,
            "containerd-plugins-namespace": f"{containerd.namespace}-p",
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "live-restore": True,
        }
        self._config = self._directory / "daemon.json"
        self._config.write_text(json.dumps(config))

    def start(self) -> None:
        """Start the engine and wait until it answers."""
        program = PEERS / "docker/usr/sbin/dockerd"
        assert program.exists(), f"{program} is missing: run script/peers docker"
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "--config-file", self._config],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={"PATH": f"{program.parent}:{os.environ['PATH']}"},
            )
        wait_for("docker", lambda: self.call("version", check=False).returncode == 0)

    def load(self) -> None:
        """Have an image of busybox, made here."""
        rootfs = make_rootfs(self._directory / "rootfs")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(rootfs, ".")
        self.call("import", "-", IMAGE, stdin=archive.getvalue())

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """End the engine."""
        assert self._process
        self._process.send_signal(signum)
        self._process.wait(LIMIT_S * 2)
        self._process = None

    def call(
        self, *words: str, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Call docker; what it says is in the result."""
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            capture_output=True,
            timeout=LIMIT_S * 3,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{words}: {done.stderr!r}\n{self.log()}"
        return done

    def command(self, *words: str) -> list[str]:
        """Return the command line of a docker call."""
        return [str(PEERS / "docker/usr/bin/docker"), "-H", self._host, *words]

    def state(self, name: str) -> dict[str, object]:
        """Return what the engine knows of a container's state."""
        said = self.call("inspect", "-f", "{{json .State}}", name).stdout
        return dict(json.loads(said))

    def log(self) -> str:
        """Return what the engine logged."""
        return (self._directory / "log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """End everything that was made here; also after a failure."""
        if self._process and self._process.poll() is None:
            listed = self.call("ps", "-aq", check=False).stdout.decode().split()
            self.call("rm", "-f", *listed, check=False)
            self.kill(signal.SIGTERM)
        for pid in pids_with(str(self._directory)):
            os.kill(pid, signal.SIGKILL)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if str(self._directory) in line.split()[4]:
                subprocess.run(["umount", line.split()[4]], check=False)
