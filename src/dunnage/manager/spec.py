"""Runtime specs (``config.json``): made for a directory, or taken from a bundle.

Owns: what a container gets when nobody says otherwise; it is Docker's default set of
capabilities, mounts and masks.
Must not know: bundles of ours, shims.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dunnage.bootstrap import bundle as files
from dunnage.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

Spec: TypeAlias = dict[str, Any]

_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What Docker and ctr say: every system knows it.
_TERM: Final = "TERM=xterm"

_CAPABILITIES: Final = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

_MOUNTS: Final = (
    # Destination, type, source, options.
    ("/proc", "proc", "proc", "nosuid noexec nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid strictatime mode=755 size=65536k"),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5",
    ),
    (
        "/dev/shm",  # noqa: S108 - the container's, not ours
        "tmpfs",
        "shm",
        "nosuid noexec nodev mode=1777 size=65536k",
    ),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro"),
)

_NAMESPACES: Final = ("pid", "ipc", "uts", "mount", "network")

_MASKED: Final = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
)
_READ_ONLY: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a terminal that a process is to have."""

    width: int
    height: int


def for_directory(
    args: Sequence[str], *, hostname: str, cgroup: str, terminal: Size | None = None
) -> Spec:
    """Return the spec of a container whose root filesystem the shim will mount.

    Raises:
        InvalidArgument: there is no command.
    """
    if not args:
        raise InvalidArgument("say which command to run, after NAME --")
    process: Spec = {
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": [_PATH],
        "cwd": "/",
        "capabilities": {
            kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")
        },
        "noNewPrivileges": True,
    }
    _give_terminal(process, terminal)
    return {
        "ociVersion": "1.0.2",
        "process": process,
        # Relative to the bundle, where the shim mounts it.
        "root": {"path": files.ROOTFS, "readonly": False},
        # A host name is a label of at most 63 characters.
        "hostname": hostname[:63],
        "mounts": [
            {
                "destination": destination,
                "type": kind,
                "source": source,
                "options": options.split(),
            }
            for destination, kind, source, options in _MOUNTS
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def from_bundle(
    directory: Path,
    args: Sequence[str],
    *,
    cgroup: str,
    terminal: Size | None = None,
) -> Spec:
    """Return the spec of somebody's bundle, to be run from a bundle of ours.

    Its root becomes absolute, a command replaces its own, and whether it has a terminal
    is for us to say.

    Raises:
        NotFound: there is no ``config.json``.
        InvalidArgument: it is no spec.
    """
    path = directory / files.CONFIG
    spec = read(path)
    process, root = spec.get("process"), spec.get("root")
    if not isinstance(process, dict):
        raise InvalidArgument(f"{path}: no process in it")
    if not isinstance(root, dict) or not isinstance(root.get("path"), str):
        raise InvalidArgument(f"{path}: no root.path in it")
    root["path"] = str(directory.absolute() / root["path"])
    if args:
        process["args"] = list(args)
    _give_terminal(process, terminal)
    linux = spec.setdefault("linux", {})
    if not isinstance(linux, dict):
        raise InvalidArgument(f"{path}: linux is no object")
    linux.setdefault("cgroupsPath", cgroup)
    return spec


def read(path: Path) -> Spec:
    """Return a ``config.json``.

    Raises:
        NotFound: it is not there.
        InvalidArgument: it is no JSON object.
    """
    try:
        spec = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(str(path)) from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: {error}") from error
    if not isinstance(spec, dict):
        raise InvalidArgument(f"{path}: not a JSON object")
    return spec


def process_like_init(
    spec: Spec, args: Sequence[str], *, terminal: Size | None = None
) -> Spec:
    """Return the process of an exec: init's, with another command.

    Raises:
        InvalidArgument: there is no command, or no process to take after.
    """
    if not args:
        raise InvalidArgument("say which command to run, after NAME --")
    process = spec.get("process")
    if not isinstance(process, dict):
        raise InvalidArgument(f"{files.CONFIG}: no process in it")
    process = {**process, "args": list(args)}
    _give_terminal(process, terminal)
    return process


def _give_terminal(process: Spec, size: Size | None) -> None:
    """Give a process a terminal, or none; with its size from the first moment on."""
    process["terminal"] = size is not None
    process.pop("consoleSize", None)
    if size is None:
        return
    process["consoleSize"] = {"width": size.width, "height": size.height}
    env = process.get("env") or []
    if isinstance(env, list) and not any(str(e).startswith("TERM=") for e in env):
        process["env"] = [*env, _TERM]
