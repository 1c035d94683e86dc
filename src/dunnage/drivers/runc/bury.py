"""Removes what is left of a container whose shim is gone; blocking, without a loop."""

from __future__ import annotations

import contextlib
import os

from dunnage.bootstrap import bundle
from dunnage.errors import DunnageError
from dunnage.host.mounts import unmount_recursive
from dunnage.host.procs import run_to_end

from . import texts, traces
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
    if found and not found.end_processes(directory):
        problems.append("some processes of the container do not end")
    options = Options.read(directory)
    command = options.command(namespace)
    state = f"{options.runtime_root(namespace)}/{container_id}"
    try:
        status, said = run_to_end([*command, "delete", "--force", container_id])
        text = said.decode(errors="replace").strip()
        if status != 0 and not texts.is_about_nothing(text, state):
            problems.append(f"{command[0]} delete: {texts.ended(status)}: {text}")
    except OSError as error:
        problems.append(texts.unstartable(error, command[0]))
    if found:
        problems += [f"cgroup {path} stays" for path in found.remove_cgroups()]
        # Of a container that never was whole, the runtime may not know.
        _remove_state(state)
    try:
        unmount_recursive(f"{directory}/{bundle.ROOTFS}")
    except (DunnageError, OSError) as error:
        problems.append(f"unmount {directory}/{bundle.ROOTFS}: {error}")
    return problems


def _remove_state(directory: str) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
