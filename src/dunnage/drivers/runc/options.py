"""The options of runc-like runtimes, and their file in the bundle.

Names are those of ``containerd.runc.v1.Options``; the file holds them as the Go shim
writes it (snake case, defaults left out), because the ``delete`` of either shim may
have to bury what the other one made.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final, Self

from dunnage.bootstrap import bundle
from dunnage.host import cgroups

DEFAULT_BINARY: Final = "runc"
DEFAULT_ROOT: Final = "/run/containerd/runc"


@dataclass(frozen=True, slots=True)
class Options:
    """How to call the runtime; an empty string or zero is the default."""

    no_pivot_root: bool = False
    no_new_keyring: bool = False
    shim_cgroup: str = ""
    io_uid: int = 0
    io_gid: int = 0
    binary_name: str = ""
    root: str = ""
    criu_path: str = ""
    systemd_cgroup: bool = False
    criu_image_path: str = ""
    criu_work_path: str = ""
    task_api_address: str = ""
    task_api_version: int = 0

    def for_cgroup(self, cgroups_path: str) -> Self:
        """Return the options for a container whose spec has this ``cgroupsPath``.

        They are silent about the driver of cgroups, or say that it is not systemd's:
        that cannot be told apart; but only systemd's has paths of its form.
        """
        is_silent = not self.systemd_cgroup and cgroups.is_for_systemd(cgroups_path)
        return dataclasses.replace(self, systemd_cgroup=True) if is_silent else self

    def to_json(self) -> str:
        """Render the content of ``options.json``."""
        fields = dataclasses.asdict(self)
        return json.dumps({name: value for name, value in fields.items() if value})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read an ``options.json``; what makes no sense here is at its default."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            return cls()
        known = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        fields: dict[str, Any] = {
            name: value
            for name, value in values.items()
            if type(value) is known.get(name)
        }
        return cls(**fields)

    def write(self, directory: str) -> None:
        """Leave in the bundle what a later ``delete`` needs.

        Raises:
            OSError: the disk is full, or gone.
        """
        bundle.write(directory, bundle.OPTIONS, self.to_json())
        bundle.write(directory, bundle.RUNTIME, self.binary_name)

    @classmethod
    def read(cls, directory: str) -> Self:
        """Read back what `write` left; missing or broken files mean defaults."""
        options = cls.from_json(_maybe_read(directory, bundle.OPTIONS))
        if not options.binary_name:
            binary = _maybe_read(directory, bundle.RUNTIME)
            options = dataclasses.replace(options, binary_name=binary)
        return options

    @property
    def program(self) -> str:
        """The runtime's name or path."""
        return self.binary_name or DEFAULT_BINARY

    def runtime_root(self, namespace: str) -> str:
        """Return where the runtime keeps the state of a namespace's containers."""
        return f"{self.root or DEFAULT_ROOT}/{namespace}"

    def command(self, namespace: str) -> list[str]:
        """Return the start of every command line: the program and its globals."""
        root = self.runtime_root(namespace)
        command = [self.program, "--root", root]
        if self.systemd_cgroup:
            command.append("--systemd-cgroup")
        return command


def _maybe_read(directory: str, name: str) -> str:
    try:
        return bundle.read(directory, name) or ""
    except OSError:
        return ""
