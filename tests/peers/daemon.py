"""A containerd of our own: private root, state, sockets and namespace; its image."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from tests.machine import cgroups_named, pids_with

PEERS = Path(os.environ.get("DUNNAGE_PEERS", Path(__file__).parents[2] / ".peers"))
FORKSERVER = "DUNNAGE_FORKSERVER"
SHIM = Path(__file__).parents[2] / ".venv/bin/containerd-shim-dunnage-v2"
OLDEST = "containerd-1.6"
_UNSTABLE = "containerd-2.1"
_BUILT = "containerd-2.3"


def _starts(name: str) -> bool:
    """Whether a peer that is there can be executed here."""
    program = PEERS / name / "usr/bin/containerd"
    if not program.exists():
        return True  # its tests are to fail
    said = subprocess.run([program, "--version"], capture_output=True, check=False)
    return said.returncode == 0


if_built = pytest.mark.skipif(
    not (PEERS / _BUILT).exists(), reason=f"script/peers {_BUILT} was not run"
)
VERSIONS = [
    OLDEST,
    "containerd-1.7",
    pytest.param(
        _UNSTABLE,
        marks=pytest.mark.skipif(
            not _starts(_UNSTABLE), reason="Debian unstable's does not start here"
        ),
    ),
    pytest.param(_BUILT, marks=if_built),
]
"""What the fixture `containerd` may be; the last is built from source, by request."""
IMAGE = "test.invalid/busybox:1"
LIMIT_S = 20.0
UNUSED = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",  # these two: of containerd 2
    "io.containerd.cri.v1.runtime",
    "io.containerd.internal.v1.opt",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper",
]


def peer(name: str, program: str) -> Path:
    """Return a program of a peer; a missing peer fails, it does not skip."""
    path = PEERS / name / "usr/bin" / program
    assert path.exists(), f"{path} is missing: run script/peers"
    return path


def errors(done: subprocess.CompletedProcess[bytes]) -> list[bytes]:
    """Return the lines on stderr, but for ctr's own: today's warns of cgroup v1."""
    lines = done.stderr.splitlines()
    return [line for line in lines if b"deprecated since" not in line]


def wait_for(
    what: str, condition: Callable[[], bool], limit_s: float = LIMIT_S
) -> None:
    """Wait until a condition holds."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, f"waited {limit_s} s for {what}"
        time.sleep(0.01)


def path_with_shim(programs: Path) -> str:
    """Return a PATH with a folder in which our shim is, under both of its names."""
    programs.mkdir(parents=True, exist_ok=True)
    for name in (SHIM.name, "containerd-shim-runc-v2"):
        if not (programs / name).is_symlink():
            (programs / name).symlink_to(SHIM)
    return f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin"


def image_archive(
    path: Path, image: str = IMAGE, args: Sequence[str] = ("sh",)
) -> None:
    """Write an OCI image of busybox-static, made here: no network.

    Args:
        path: where to.
        image: its name.
        args: what it runs if nobody says otherwise.
    """

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {
            "mediaType": media_type,
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    blobs: dict[str, bytes] = {}
    layer_file = io.BytesIO()
    with tarfile.open(fileobj=layer_file, mode="w") as layer:
        for directory in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        busybox = shutil.which("busybox")
        assert busybox, "busybox is missing: apt-get install busybox-static"
        layer.add(os.path.realpath(busybox), "bin/busybox")
        applets = subprocess.run(
            [busybox, "--list"], capture_output=True, text=True, check=True
        )
        for applet in applets.stdout.split():
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            if applet != "busybox":
                layer.addfile(entry)
        plain = tarfile.TarInfo("etc/plain")
        plain.mode, plain.size = 0o644, 3
        layer.addfile(plain, io.BytesIO(b"no\n"))
    data = layer_file.getvalue()
    oci = "application/vnd.oci.image"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": list(args)},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}"],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "config": blob(json.dumps(config).encode(), f"{oci}.config.v1+json"),
        "layers": [blob(data, f"{oci}.layer.v1.tar")],
    }
    top = blob(json.dumps(manifest).encode(), f"{oci}.manifest.v1+json")
    top["annotations"] = {"io.containerd.image.name": image}
    index = {"schemaVersion": 2, "manifests": [top]}
    with tarfile.open(path, "w") as archive:
        files = {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": json.dumps(index).encode(),
            **blobs,
        }
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


class Containerd:
    """One daemon, its ctr, and a namespace that nobody else uses.

    Args:
        directory: for all that it keeps.
        version: the peer.
        path: where it looks for programs.
        environment: the rest of its environment; None: the fork servers of the tests.
        namespace: another one, which others may use.
        unused: plugins that are not wanted.
        more: of its configuration.
    """

    def __init__(
        self,
        directory: Path,
        version: str,
        path: str,
        environment: Mapping[str, str] | None = None,
        *,
        namespace: str = "",
        unused: Sequence[str] = UNUSED,
        more: str = "",
    ) -> None:
        self.directory = directory
        self.version = version
        self.address = directory / "c.sock"
        self.cgroup = f"dn-{secrets.token_hex(4)}"
        self.namespace = namespace or self.cgroup
        self.bundles = (
            directory / "state/io.containerd.runtime.v2.task" / self.namespace
        )
        if environment is None:
            environment = {FORKSERVER: os.environ[FORKSERVER]}
        self._environment = {"PATH": path, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        config = directory / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            f"disabled_plugins = {json.dumps(unused)}\n"
            f'[grpc]\naddress = "{self.address}"\n{more}'
        )

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        log = (self.directory / "daemon.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    peer(self.version, "containerd"),
                    "--config",
                    self.directory / "config.toml",
                    "--log-level",
                    "trace",
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )
        wait_for("containerd", lambda: self.ctr("version", check=False).returncode == 0)

    def stop(self) -> None:
        """Have the daemon hang, until it is killed."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """End the daemon."""
        assert self._process
        self._process.send_signal(signum)
        self._process.wait(LIMIT_S)
        self._process = None

    def log(self) -> str:
        """Return what the daemon logged."""
        return (self.directory / "daemon.log").read_text(errors="replace")

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a ctr call."""
        program = str(peer(self.version, "ctr"))
        return [program, "-a", str(self.address), "-n", self.namespace, *arguments]

    def ctr(
        self, *arguments: str, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Call ctr; what it says is in the result."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            timeout=LIMIT_S * 2,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stderr!r}\n{self.log()}"
        return done

    def shims(self) -> list[int]:
        """Return the pids of whoever was started for one of its containers."""
        return pids_with(f"-address\0{self.address}\0")

    @contextlib.contextmanager
    def events(self) -> Iterator[EventRecorder]:
        """Record what ``ctr events`` shows."""
        recorder = EventRecorder(self)
        try:
            yield recorder
        finally:
            recorder.stop()

    def close(self) -> None:
        """End everything that was made here; also after a failure."""
        if self._process and self._process.poll() is None:
            for task in self.ctr("task", "ls", "-q", check=False).stdout.split():
                self.ctr("task", "kill", "-s", "KILL", task.decode(), check=False)
                self.ctr("task", "rm", "-f", task.decode(), check=False)
            self.kill(signal.SIGTERM)
        for pid in {*self.shims(), *pids_with(self.cgroup)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        mounts = [
            line.split()[4]
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(self.directory) in line.split()[4]
        ]
        for mount in reversed(mounts):
            subprocess.run(["umount", mount], check=False)
        # What the runtime leaves to be used again: the parents of its cgroups and
        # of its containers' states.
        for top in cgroups_named(self.cgroup):
            for group in [*sorted(top.rglob("*/"), reverse=True), top]:
                with contextlib.suppress(OSError):
                    group.rmdir()
        with contextlib.suppress(OSError):
            Path("/run/containerd/runc", self.namespace).rmdir()


class EventRecorder:
    """The lines of ``ctr events``, from a moment at which it is known to listen."""

    def __init__(self, daemon: Containerd) -> None:
        self._file = daemon.directory / f"events-{secrets.token_hex(3)}"
        with self._file.open("wb") as out:
            self._process = subprocess.Popen(
                daemon.command("events"), stdout=out, stdin=subprocess.DEVNULL
            )
        # Nothing says that a subscription has begun: make events until one is seen.
        name = f"probe-{secrets.token_hex(3)}"

        def seen() -> bool:
            daemon.ctr("namespaces", "label", daemon.namespace, f"{name}=1")
            return name in self._file.read_text()

        wait_for("ctr events", seen)

    def tasks(self) -> list[tuple[str, dict[str, object]]]:
        """Return topic and fields of the task events so far."""
        found = []
        for line in self._file.read_text().splitlines():
            head, brace, fields = line.partition("{")
            topic = head.split()[-1]
            if topic.startswith("/tasks/"):
                found.append(
                    (topic.removeprefix("/tasks/"), json.loads(brace + fields))
                )
        return found

    def topics(self, container: str) -> list[str]:
        """Return the topics of a container's events, execs' exits marked as such."""
        return [
            f"{topic} {fields['id']}"
            if topic in {"exit", "delete"} and fields.get("id", container) != container
            else topic
            for topic, fields in self.tasks()
            if fields["container_id"] == container
        ]

    def stop(self) -> None:
        """End ctr."""
        self._process.kill()
        self._process.wait()
