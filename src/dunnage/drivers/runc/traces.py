"""What a container leaves if its shim dies: noted before the runtime is called.

A runtime that is killed in the middle of a ``create`` has perhaps noted nothing itself:
there may be processes and cgroups of a container that it would say does not exist.

Owns: the note in the bundle, and the proof that what it leads to is the container's.

Invariant (proof-before-kill): of processes, those are killed that are members of a
    cgroup that was empty or missing before the container was created, and those that
    are in the dead shim's process group *and* have their working directory in the
    bundle, while the machine has not been booted anew; never one for its pid alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from dataclasses import dataclass
from typing import Final, NamedTuple

from dunnage.bootstrap import bundle
from dunnage.host import cgroups
from dunnage.host.procs.identity import Identity, group_of

from .options import Options

_DEATH_LIMIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Traces:
    """The shim that made the container, and the cgroups that are the container's."""

    shim: Identity
    cgroups: tuple[str, ...] = ()

    def is_of_this_boot(self) -> bool:
        """Tell whether anything of it can live still."""
        return self.shim.is_of_this_boot()

    def end_processes(self, directory: str) -> bool:
        """Kill the container's processes, and the runtime calls of a dead shim.

        Returns:
            Whether there is none left.
        """
        if not self.is_of_this_boot():
            return True
        # First those who could still make others.
        calls_ended = self.shim.is_alive() or _end_calls(self.shim.pid, directory)
        return cgroups.kill_members(self.cgroups) and calls_ended

    def remove_cgroups(self) -> list[str]:
        """Remove the container's cgroups; return those that stay."""
        return cgroups.remove(self.cgroups) if self.is_of_this_boot() else []


class Future(NamedTuple):
    """The cgroup that there will be."""

    path: str | None
    """From the root of each hierarchy; None where it is the runtime's to say."""
    is_new: bool
    """It was nowhere before."""


def write(directory: str, options: Options, cgroups_path: str) -> Future:
    """Note, before anything is made, what there will be.

    Args:
        directory: the bundle.
        options: those with which the container will be created.
        cgroups_path: the spec's.

    Raises:
        OSError: the disk is full, or gone.
    """
    shim = Identity.mine()
    path, paths = _future_cgroups(cgroups_path, options)
    fields = {"shim": shim._asdict(), "cgroups": paths}
    bundle.write(directory, bundle.TRACES, json.dumps(fields))
    return Future(path, bool(paths) and not any(map(os.path.exists, paths)))


def read(directory: str) -> Traces | None:
    """Return what was noted; None if there is nothing that makes sense."""
    try:
        fields = json.loads(bundle.read(directory, bundle.TRACES) or "null")
        shim = Identity(**fields["shim"])
        paths = tuple(fields["cgroups"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    kinds = [type(value) for value in (*shim, *paths)]
    if kinds != [int, int, str, *[str] * len(paths)] or shim.pid <= 1:
        return None
    return Traces(shim, paths)


def forget(directory: str) -> None:
    """Drop the note: the container is gone, its cgroup may soon be another's."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/{bundle.TRACES}")


def _future_cgroups(
    cgroups_path: str, options: Options
) -> tuple[str | None, list[str]]:
    """Return what will be the container's cgroup; its directories, if its alone."""
    path = cgroups.path_in_spec(cgroups_path, systemd=options.systemd_cgroup)
    if path is None or path == "/":
        return None, []
    found = cgroups.directories(path)
    # Shared with others, who must not die with it.
    return path, [] if cgroups.members(found) else found


def _end_calls(group: int, directory: str) -> bool:
    """Kill what a dead shim had called for this bundle, and what that has called.

    The runtime itself dies with its shim; what it, or a script in its place, has
    called does not.
    """
    top = os.path.realpath(directory)
    for _ in range(10):
        # The kernel knows at once what a look at every process would tell.
        if not _is_group(group) or not (fds := _calls(group, top)):
            return True
        deaths = select.poll()
        for fd in fds:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            deaths.register(fd, select.POLLIN)
        deaths.poll(_DEATH_LIMIT_S * 1000 / 10)
        for fd in fds:
            os.close(fd)
    return False


def _is_group(group: int) -> bool:
    """Tell whether there is a process in a group; one that we may not kill is one."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _calls(group: int, top: str) -> list[int]:
    """Return a pidfd of each process of a group that works in a directory."""
    fds = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        pid = int(name)
        try:
            if group_of(pid) != group:
                continue
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # Looked at again, as only now the pid cannot become another's.
            cwd = os.readlink(f"/proc/{pid}/cwd")
            is_call = group_of(pid) == group and _is_in(cwd, top)
        except OSError:
            is_call = False
        if is_call:
            fds.append(fd)
        else:
            os.close(fd)
    return fds


def _is_in(path: str, top: str) -> bool:
    path = path.removesuffix(" (deleted)")
    return path == top or path.startswith(f"{top}/")
