"""What a shim wants to know of a container's config.json.

The runtime reads the file itself and is the judge of it; only what decides *our* doing
is looked at here, and whatever has an unexpected shape counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dunnage.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of a runtime spec that a shim acts on."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    shares_pid_namespace: bool = True
    """Processes of the container outlive its init: no pid namespace of its own."""
    cgroups_path: str = ""
    root_uid: int = 0
    """Who the container's root is outside of its user namespace."""
    root_gid: int = 0

    @classmethod
    def parse(cls, data: bytes | str) -> Self:
        """Read the content of a config.json.

        Raises:
            InvalidArgument: it is not a JSON object.
        """
        try:
            # Never guessing the encoding, which might import a codec.
            text = data if isinstance(data, str) else str(data, "utf-8")
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"config.json: {error}") from error
        if not isinstance(config, dict):
            raise InvalidArgument("config.json: not a JSON object")
        annotations = {
            key: value
            for key, value in _dict(config.get("annotations")).items()
            if isinstance(value, str)
        }
        linux = _dict(config.get("linux"))
        path = linux.get("cgroupsPath")
        return cls(
            annotations,
            _shares_pid_namespace(linux.get("namespaces")),
            path if isinstance(path, str) else "",
            _root_outside(linux.get("uidMappings")),
            _root_outside(linux.get("gidMappings")),
        )


def _shares_pid_namespace(namespaces: object) -> bool:
    """Apply containerd's rule (runc/util.go, ShouldKillAllOnExit).

    A pid namespace of its own is an entry without a path.
    """
    if not isinstance(namespaces, list):
        return True
    for namespace in map(_dict, namespaces):
        if namespace.get("type") == "pid":
            return bool(namespace.get("path"))
    return True


def _root_outside(mappings: object) -> int:
    """Return what the id 0 of the container is outside; unmapped, it is 0 as well."""
    for mapping in map(_dict, mappings if isinstance(mappings, list) else ()):
        inside, outside, size = map(mapping.get, ("containerID", "hostID", "size"))
        if inside == 0 and type(outside) is int and type(size) is int and size > 0:
            return max(outside, 0)
    return 0


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
