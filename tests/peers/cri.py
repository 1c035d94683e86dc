"""A containerd that serves the CRI, as a kubelet's does, and crictl in its place."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .daemon import IMAGE, LIMIT_S, PEERS, UNUSED, Containerd, wait_for

CRICTL = PEERS / "cri-tools/usr/bin/crictl"
PAUSE = "test.invalid/pause:1"
_PLUGIN = 'plugins."io.containerd.grpc.v1.cri"'
_CONFIG = f"""
[{_PLUGIN}]
sandbox_image = "{PAUSE}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
[{_PLUGIN}.cni]
bin_dir = "DIRECTORY/cni"
conf_dir = "DIRECTORY/cni"
[{_PLUGIN}.containerd]
default_runtime_name = "dunnage"
[{_PLUGIN}.containerd.runtimes.dunnage]
runtime_type = "io.containerd.dunnage.v2"
[{_PLUGIN}.containerd.runtimes.dunnage.options]
BinaryName = "runc"
Root = "DIRECTORY/runc"
"""

if_built = pytest.mark.skipif(
    not CRICTL.exists(), reason="script/peers cri-tools was not run"
)


class Cri(Containerd):
    """One such daemon; its namespace is everybody's, its addresses are not."""

    def __init__(self, directory: Path, version: str, path: str) -> None:
        config = _CONFIG.replace("DIRECTORY", str(directory))
        unused = [name for name in UNUSED if ".cri" not in name]
        super().__init__(
            directory, version, path, namespace="k8s.io", unused=unused, more=config
        )
        self.logs = directory / "logs"
        self.logs.mkdir()
        self._pods = 0

    def start(self) -> None:
        """Start the daemon and wait until the CRI answers, too."""
        super().start()
        wait_for("the CRI", lambda: self.crictl("version", check=False).returncode == 0)

    def crictl(
        self, *words: str | Path, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Call crictl; what it says is in the result."""
        endpoint = f"unix://{self.address}"
        argv = [str(CRICTL), "-r", endpoint, "-i", endpoint, "-t", f"{LIMIT_S:.0f}s"]
        done = subprocess.run(
            [*argv, *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S * 2,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{words}: {done.stderr!r}\n{self.log()}"
        return done

    def said(self, *words: str | Path) -> str:
        """Call crictl; return its one word."""
        return self.crictl(*words).stdout.decode().strip()

    def run_pod(self) -> str:
        """Make a sandbox in the host's network, as there is no other; return its id."""
        self._pods += 1
        pod = self._file(
            f"pod-{self._pods}",
            {
                "metadata": {
                    "name": f"pod-{self._pods}",
                    "namespace": "default",
                    "uid": secrets.token_hex(8),
                    "attempt": 1,
                },
                "log_directory": str(self.logs),
                "linux": {
                    "cgroup_parent": f"/{self.cgroup}",
                    "security_context": {"namespace_options": {"network": 2}},
                },
            },
        )
        return self.said("runp", "-r", "dunnage", pod)

    def run(self, pod: str, name: str, args: list[str], **resources: int) -> str:
        """Have a container run in the pod that was made last; return its id."""
        config = self._file(
            name,
            {
                "metadata": {"name": name},
                "image": {"image": IMAGE},
                "command": args,
                "log_path": f"{name}.log",
                "linux": {"resources": resources},
            },
        )
        of = self.directory / f"pod-{self._pods}.json"
        container = self.said("create", pod, config, of)
        self.crictl("start", container)
        return container

    def status(self, container: str) -> dict[str, Any]:
        """Return the status of a container, of which `state`, `exitCode`, `reason`."""
        found: dict[str, Any] = json.loads(self.said("inspect", container))["status"]
        return found

    def exited(self, container: str) -> dict[str, Any]:
        """Wait until a container has exited; return its status."""
        wait_for(
            "the exit",
            lambda: self.status(container)["state"] == "CONTAINER_EXITED",
        )
        return self.status(container)

    def forget(self, container: str) -> None:
        """Have the runtime delete a container of which nobody else knows any more."""
        root = self.directory / "runc" / self.namespace
        argv = ["runc", "--root", str(root), "delete", "--force", container]
        subprocess.run(argv, check=True)

    def is_ready(self, pod: str) -> bool:
        """Whether a sandbox is ready."""
        state = json.loads(self.said("inspectp", pod))["status"]["state"]
        return bool(state == "SANDBOX_READY")

    def _file(self, name: str, content: dict[str, Any]) -> Path:
        path = self.directory / f"{name}.json"
        path.write_text(json.dumps(content))
        return path
