"""What runs here: daemons that look for shims, and containers that shims serve.

Owns: reading /proc.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from dunnage.bootstrap import bundle
from dunnage.errors import FailedPrecondition

from . import programs

_CONTAINERD: Final = "containerd"
_SHIM_FLAGS: Final = frozenset({"-namespace", "-id", "-address"})
_CONFIG: Final = "/etc/containerd/config.toml"


@dataclass(frozen=True, slots=True)
class Found:
    """What a daemon finds under a name."""

    path: str
    version: str = ""
    """Of ours; empty: another's."""
    problem: str = ""
    """Why it does not run there."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A containerd."""

    pid: int
    directories: tuple[str, ...]
    """Where it looks for shims: its PATH, then where it is itself."""
    config: str

    def __str__(self) -> str:
        return f"containerd (pid {self.pid})"

    @property
    def root(self) -> str:
        """The directory that it has for its root, with the mounts that it sees."""
        theirs = [f"/proc/{self.pid}/{name}" for name in ("root", "ns/mnt")]
        ours = ["/", "/proc/self/ns/mnt"]
        try:
            is_same = all(map(os.path.samefile, theirs, ours))
        except OSError:
            is_same = False
        return "/" if is_same else theirs[0]

    def is_there(self) -> bool:
        """Tell whether it has not ended since."""
        return os.path.exists(f"/proc/{self.pid}/root")

    def find(self, name: str) -> Found | None:
        """Return what it would execute, as it was tried there."""
        root = self.root
        for directory in self.directories:
            path = os.path.join(directory, name)
            try:
                return Found(path, programs.version(path, root))
            except FailedPrecondition as error:
                return Found(path, problem=error.message)
            except OSError:
                continue  # not there, or not for us
        return None

    def read_config(self) -> bytes:
        """Return the configuration; nothing if there is none that we can read."""
        return read(f"{self.root}/{self.config}")


def daemons() -> list[Daemon]:
    """Return those whose environment we may read."""
    found = []
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read().strip() != _CONTAINERD:
                    continue
            environ = _words(pid, "environ")
            argv = _words(pid, "cmdline")
            program = os.readlink(f"/proc/{pid}/exe")
            config = _config(pid, argv)
        except OSError:
            continue
        path = next(
            (
                word.removeprefix("PATH=")
                for word in environ
                if word.startswith("PATH=")
            ),
            "",
        )
        named = [word for word in path.split(":") if word.startswith("/")]
        # Of a program that was replaced, the kernel says so.
        own = os.path.dirname(program.removesuffix(" (deleted)"))
        directories = tuple(dict.fromkeys([*named, own]))
        found.append(Daemon(pid, directories, config))
    return found


def served_through(path: str) -> list[str]:
    """Return the bundles of live shims' namespaces that were started from a path.

    The daemon calls that path again for each: when its shim dies, when it is deleted,
    and when the daemon was restarted.
    """
    namespaces = set()
    for pid in _pids():
        try:
            if set(_words(pid, "cmdline")) >= _SHIM_FLAGS:
                namespaces.add(os.path.dirname(os.readlink(f"/proc/{pid}/cwd")))
        except OSError:
            continue
    return sorted(
        entry.path
        for namespace in namespaces
        for entry in _entries(namespace)
        if (noted := read(f"{entry.path}/{bundle.SHIM_BINARY_PATH}"))
        and is_same(os.fsdecode(noted), path)
    )


def is_same(path: str, other: str) -> bool:
    """Tell whether two paths are one: a directory may have two names (/bin)."""
    return _real(path) == _real(other)


def read(path: str) -> bytes:
    """Return the content of a file; nothing if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _real(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _words(pid: int, name: str) -> list[str]:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return [os.fsdecode(word) for word in file.read().split(b"\0")]


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        return [*os.scandir(directory)]
    except OSError:
        return []


def _config(pid: int, argv: list[str]) -> str:
    for word, following in pairwise(argv):
        if word in {"-c", "--config", "-config"}:
            return os.path.join(os.readlink(f"/proc/{pid}/cwd"), following)
        if word.startswith(("--config=", "-c=")):
            value = word.partition("=")[2]
            return os.path.join(os.readlink(f"/proc/{pid}/cwd"), value)
    return _CONFIG
