"""Where a container's cgroup is: from the spec's words, or a process, to directories.

Must not know: what is in a cgroup.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from dunnage.errors import FailedPrecondition

_MOUNTS: Final = "/proc/self/mountinfo"
_SLICE: Final = ".slice"
_OPTIONS: Final = frozenset({
    *("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode"),
    "favordynmods",
})  # fmt: skip
"""What stands among the controllers in v1's mount options."""
_BOOTED: Final = "/run/systemd/system"
"""Is there if systemd runs: sd_booted(3)."""


def is_for_systemd(cgroups_path: str) -> bool:
    """Tell whether ``cgroupsPath`` has the form ``slice:prefix:name``."""
    slice_, *rest = cgroups_path.split(":")
    has_slice = not slice_ or (slice_.endswith(_SLICE) and "/" not in slice_)
    return has_slice and len(rest) == 2 and rest[1] != ""


def expect_systemd() -> None:
    """Refuse to have cgroups made by systemd where it does not run.

    Raises:
        FailedPrecondition: it does not.
    """
    if not os.path.isdir(_BOOTED):
        raise FailedPrecondition(
            f"cgroups by systemd: it does not run here, there is no {_BOOTED}"
        )


def path_in_spec(cgroups_path: str, *, systemd: bool) -> str | None:
    """Return the path, from the root of a hierarchy, that ``cgroupsPath`` stands for.

    None where it depends on the runtime: a relative path, or none at all.

    Args:
        cgroups_path: with systemd's driver ``slice:prefix:name``, else a path.
        systemd: whether that driver is used (runc's and crun's ``--systemd-cgroup``).
    """
    if not systemd:
        return os.path.normpath(cgroups_path) if cgroups_path[:1] == "/" else None
    slice_, _, unit = cgroups_path.partition(":")
    prefix, _, name = unit.partition(":")
    if not name:
        return None
    if not name.endswith(_SLICE):
        name = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return f"{_expanded(slice_ or 'system.slice')}/{name}"


def _expanded(slice_: str) -> str:
    """Return the path of a slice: ``a-b.slice`` is in ``a.slice``."""
    names = slice_.removesuffix(_SLICE).split("-")
    if not any(names):
        return ""  # the root slice is called "-.slice"
    parts = ("-".join(names[: count + 1]) for count in range(len(names)))
    return "".join(f"/{part}{_SLICE}" for part in parts)


def directories(path: str) -> list[str]:
    """Return where the cgroup ``path`` is, or would be, in each mounted hierarchy.

    Raises:
        OSError: /proc is not there.
    """
    return [f"{mount.point}{path}" for mount in _mounts()]


def own() -> str | None:
    """Return the directory of our own cgroup, in one hierarchy; None if none is there.

    Raises:
        OSError: /proc is not there.
    """
    told = _told("self")
    for mount in _mounts():
        for controller in mount.controllers:
            if (place := _place(mount, told.get(controller))) and os.path.isdir(place):
                return place
    return None


def of_process(pid: int, otherwise: str | None = None) -> dict[str, str]:
    """Return the directory of a process's cgroup for each controller; v2's for "".

    One that is ours, too, is left out: nobody has given it a cgroup.

    Args:
        pid: the process.
        otherwise: the path of its cgroup, for what the kernel does not tell: of the
            dead v1 says that they are in the root, and of the buried nothing is said.

    Raises:
        OSError: /proc is not there.
    """
    told, ours = _told(pid), _told("self")
    found: dict[str, str] = {}
    for mount in _mounts():
        for controller in mount.controllers:
            path = told.get(controller)
            if path in {None, "/", ours.get(controller)}:
                path = otherwise
            if controller not in found and (place := _place(mount, path)):
                found[controller] = place
    return found


def _place(mount: _Mount, path: str | None) -> str | None:
    """Return where the cgroup ``path`` is seen below a mount."""
    if not path:
        return None
    inside = path.removeprefix(mount.root) if mount.root != "/" else path
    return f"{mount.point}{inside}"


class _Mount(NamedTuple):
    """A hierarchy, mounted."""

    point: str
    root: str
    """The cgroup that is to be seen there."""
    controllers: tuple[str, ...]


def _mounts() -> Iterator[_Mount]:
    with open(_MOUNTS, "rb") as file:
        for line in file:
            where, _, kind = line.partition(b" - ")
            if kind.startswith((b"cgroup ", b"cgroup2 ")):
                fields = os.fsdecode(where).split(" ")
                options = os.fsdecode(kind).split(" ")[-1].strip()
                words = {*options.split(",")} if kind[:7] == b"cgroup " else {""}
                yield _Mount(fields[4], fields[3], tuple(words - _OPTIONS))


def _told(pid: int | str) -> dict[str, str]:
    """Return the path of a process's cgroup for each controller, as the kernel says."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            lines = os.fsdecode(file.read()).splitlines()
    except OSError:
        return {}
    return {
        controller: path
        for _, controllers, path in (line.split(":", 2) for line in lines)
        for controller in controllers.split(",")
    }
