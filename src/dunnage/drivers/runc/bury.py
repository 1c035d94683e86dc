"""Removes what is left of a container whose shim is gone; blocking, without a loop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection

from dunnage.bootstrap import bundle
from dunnage.errors import DunnageError
from dunnage.host import cgroups
from dunnage.host.mounts import unmount_recursive
from dunnage.host.procs import run_to_end

from . import notes, stale, texts, traces
from .options import Options


def bury(directory: str, namespace: str, container_id: str) -> list[str]:
    """Kill and delete a container by the files of its bundle, and unmount its root.

    Idempotent: what is not there any more is fine.

    Returns:
        What went wrong, for people; every step is tried.
    """
    problems: list[str] = []
    found = traces.read(directory)
    # First: a runtime finds, and then kills by its pid, what it has noted itself, and
    # waits for what is frozen.
    is_empty = found is not None and found.end_processes(directory)
    if found and not is_empty:
        problems.append("some processes of the container do not end")
    options = Options.read(directory)
    state = f"{options.runtime_root(namespace)}/{container_id}"
    was_before_boot = found is not None and not found.is_of_this_boot()
    if stale.drop(state, is_of_another_boot=was_before_boot) or was_before_boot:
        pass  # what is there still is of another container of that id
    elif not _is_removed(state, options, found.cgroups if found and is_empty else ()):
        problems += _delete(
            [*options.command(namespace), "delete"], container_id, state
        )
    if found and not was_before_boot:
        problems += [f"cgroup {path} stays" for path in found.remove_cgroups()]
        # Of a container that never was whole, the runtime may not know.
        _remove_state(state)
    try:
        unmount_recursive(f"{directory}/{bundle.ROOTFS}")
    except (DunnageError, OSError) as error:
        problems.append(f"unmount {directory}/{bundle.ROOTFS}: {error}")
    return problems


def _is_removed(state: str, options: Options, empty: Collection[str]) -> bool:
    """Remove what is left, if nobody lives and the runtime would do no more.

    Args:
        state: where the runtime's notes are.
        options: how to call it.
        empty: cgroups that are known to have no processes.
    """
    noted = notes.read(state, options)
    if noted is None or (noted.init is not None and noted.init.is_alive()):
        return False
    if cgroups.members([path for path in noted.cgroups if path not in empty]):
        return False
    return not cgroups.remove(noted.cgroups) and noted.remove()


def _delete(command: list[str], container_id: str, state: str) -> list[str]:
    """Have the runtime delete it; return what went wrong."""
    try:
        status, said = run_to_end([*command, "--force", container_id])
    except OSError as error:
        return [texts.unstartable(error, command[0])]
    text = said.decode(errors="replace").strip()
    if status == 0 or texts.is_about_nothing(text, state):
        return []
    return [f"{command[0]} delete: {texts.ended(status)}: {text}"]


def _remove_state(directory: str) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
