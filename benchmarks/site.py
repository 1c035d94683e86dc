"""Where one run takes place: its directory, bundles and root; all is removed after it.

Nothing of it is shared with another run, or with the containers of this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Self

from tests.machine import cgroups_named, pids_with
from tests.shim.harness import make_rootfs, spec

from dunnage.bootstrap.address import unix_name
from dunnage.host.mounts.syscalls import mount, umount

from .wire import Hub

_MS_BIND: Final = 4096
_MS_REC: Final = 16384
_END_S: Final = 10.0


class Site:
    """The place of a run; a context manager that leaves nothing behind."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        self.token = secrets.token_hex(3)

    def __enter__(self) -> Self:
        # A tmpfs, as for a daemon: what a disk takes is not what is measured.
        self.directory = Path(tempfile.mkdtemp(prefix="dunnage-bench-", dir="/run"))
        self.forkservers = self.directory / "f"
        self.forkservers.mkdir(mode=0o700)
        self.rootfs = make_rootfs(self.directory / "rootfs")
        self.address = str(self.directory / "d.sock")
        self.hub = Hub(f"{self.address}.ttrpc")
        self._log = self.directory / "log"
        os.mkfifo(self._log, 0o700)
        self._log_fd = os.open(self._log, os.O_RDWR | os.O_NONBLOCK)
        self.hub.watch(self._log_fd, self._drop_log)
        # What a container's init reads before it ends, and where it writes then.
        os.mkfifo(self.rootfs / "tmp/go")
        self.go_fd = os.open(self.rootfs / "tmp/go", os.O_RDWR | os.O_NONBLOCK)
        self.last = self.rootfs / "tmp/last"
        self._sockets: set[str] = set()
        self._runtime_roots: set[Path] = set()
        return self

    def __exit__(self, *_: object) -> None:
        _end_all(self.directory.name, f"bench-{self.token}-")
        for root in self._runtime_roots:
            self._delete_containers(root)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(f"{self.directory}/"):
                with contextlib.suppress(OSError):
                    umount(line.split()[4])
        for group in cgroups_named(self.cgroup):
            for member in [*group.iterdir(), group]:
                with contextlib.suppress(OSError):
                    member.rmdir()
        for path in self._sockets:
            Path(path).unlink(missing_ok=True)
        self.hub.close()
        os.close(self._log_fd)
        os.close(self.go_fd)
        # Never across a mount that is still there.
        subprocess.run(
            ["rm", "-rf", "--one-file-system", str(self.directory)], check=False
        )

    @property
    def cgroup(self) -> str:
        """The parent of all containers' cgroups."""
        return f"/dunnage-bench-{self.token}"

    def namespace(self, name: str) -> str:
        """Return the namespace of a shim's containers, and note what to clean."""
        namespace = f"bench-{self.token}-{name}"
        self._runtime_roots.add(Path("/run/containerd/runc") / namespace)
        return namespace

    def runtime_root(self) -> Path:
        """Return the root of the runtime where it is called directly."""
        root = self.directory / "runtime"
        self._runtime_roots.add(root)
        return root

    def bundle(
        self, namespace: str, id_: str, args: list[str], pod: str | None = None
    ) -> Path:
        """Make a bundle."""
        bundle = self.directory / "b" / namespace / id_
        (bundle / "rootfs").mkdir(parents=True)
        config: dict[str, Any] = spec(args)
        config["linux"]["cgroupsPath"] = f"{self.cgroup}/{id_}"
        if pod:
            config["annotations"] = {"io.kubernetes.cri.sandbox-id": pod}
        (bundle / "config.json").write_text(json.dumps(config))
        # One fifo for all: hundreds of them would need as many fds.
        os.link(self._log, bundle / "log")
        return bundle

    def bind_root(self, bundle: Path) -> None:
        """Mount the root into a bundle, as a shim does."""
        target = str(bundle / "rootfs")
        mount(str(self.rootfs), target, "bind", _MS_BIND | _MS_REC, "")

    def unbind_root(self, bundle: Path) -> None:
        """Unmount it."""
        umount(str(bundle / "rootfs"))

    def drop_bundle(self, bundle: Path) -> None:
        """Remove a bundle; what is mounted on its root is unmounted, never removed."""
        with contextlib.suppress(OSError):
            umount(str(bundle / "rootfs"))
        (bundle / "rootfs").rmdir()
        shutil.rmtree(bundle)

    def note_socket(self, address: str) -> None:
        """Remember the socket of a shim: some leave it behind."""
        name = unix_name(address)
        if not name.startswith("\0"):
            self._sockets.add(name)

    def _drop_log(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._log_fd, 1 << 16)

    def _delete_containers(self, root: Path) -> None:
        for container in root.iterdir() if root.is_dir() else ():
            subprocess.run(
                [self.runtime, "--root", root, "delete", "--force", container.name],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        shutil.rmtree(root, ignore_errors=True)


def _end_all(*texts: str) -> None:
    """Kill every process whose command line holds one of these texts of our own."""
    end = time.monotonic() + _END_S
    while pids := {pid for text in texts for pid in pids_with(text)}:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            return
        time.sleep(0.01)
