"""The lines by which daemons learn a runtime's name, and whether they stand there.

containerd itself needs none: clients name the runtime.
CRI does (``config.toml``), Docker may (``daemon.json``), Kubernetes names CRI's name in
a RuntimeClass.

Sources: ``containerd config default`` of 1.6 and 2.3; Docker's "alternative runtimes".
"""

from __future__ import annotations

import json
import tomllib
from typing import Any, Final

NAME: Final = "dunnage"
RUNTIME: Final = "io.containerd.dunnage.v2"
DAEMON_JSON: Final = "/etc/docker/daemon.json"

# By the version of the *file*, which containerd takes for years after the next one.
_PLUGINS: Final = {
    1: "cri",
    2: "io.containerd.grpc.v1.cri",
    3: "io.containerd.cri.v1.runtime",
}
_LATEST: Final = max(_PLUGINS)


def version_of(config: bytes) -> int:
    """Return the version of a ``config.toml``; 0 if that cannot be told."""
    if not config.strip():
        return 0
    try:
        # containerd: what names none is of the first.
        version = tomllib.loads(config.decode()).get("version", 1)
    except ValueError:
        return 0
    # What comes after 3 has the same tables so far.
    return min(version, _LATEST) if type(version) is int and version > 0 else 0


def containerd(version: int, runtime: str = RUNTIME) -> str:
    """Return the lines for a ``config.toml``."""
    table = f'plugins."{_PLUGINS[version]}".containerd.runtimes.{NAME}'
    return f'[{table}]\n  runtime_type = "{runtime}"\n'


def docker(runtime: str = RUNTIME) -> str:
    """Return what a ``daemon.json`` has to say, of Docker 24 and later."""
    return json.dumps({"runtimes": {NAME: {"runtimeType": runtime}}}, indent=2) + "\n"


RUNTIME_CLASS: Final = f"""\
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: {NAME}
handler: {NAME}
"""


def named_in_containerd(config: bytes) -> list[str]:
    """Return by which names a ``config.toml`` has the runtime."""
    try:
        plugins: Any = tomllib.loads(config.decode()).get("plugins", {})
    except ValueError:
        return []
    names: list[str] = []
    for plugin in _PLUGINS.values():
        runtimes = _at(plugins, plugin, "containerd", "runtimes")
        names += _with(runtimes, "runtime_type")
    return names


def named_in_docker(config: bytes) -> list[str]:
    """Return by which names a ``daemon.json`` has the runtime."""
    try:
        return _with(_at(json.loads(config), "runtimes"), "runtimeType")
    except ValueError:
        return []


def _at(table: Any, *names: str) -> Any:
    for name in names:
        table = table.get(name) if isinstance(table, dict) else None
    return table


def _with(runtimes: Any, key: str) -> list[str]:
    """Return the names in a table that mean us, by name or by a path."""
    if not isinstance(runtimes, dict):
        return []
    return [
        name
        for name, runtime in runtimes.items()
        if (kind := _at(runtime, key)) == RUNTIME
        or str(kind).endswith("/containerd-shim-dunnage-v2")
    ]
