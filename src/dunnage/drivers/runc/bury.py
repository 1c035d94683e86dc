"""Removes what is left of a container whose shim is gone; blocking, without a loop."""

from __future__ import annotations

from dunnage.bootstrap import bundle
from dunnage.errors import DunnageError
from dunnage.host.mounts import unmount_recursive
from dunnage.host.procs import run_to_end

from . import texts
from .options import Options


def bury(directory: str, namespace: str, container_id: str) -> list[str]:
    """Kill and delete a container by the files of its bundle, and unmount its root.

    Idempotent: what is not there any more is fine.

    Returns:
        What went wrong, for people; every step is tried.
    """
    problems: list[str] = []
    command = Options.read(directory).command(namespace)
    try:
        status, said = run_to_end([*command, "delete", "--force", container_id])
        text = said.decode(errors="replace").strip()
        if status != 0 and "does not exist" not in text:
            problems.append(f"{command[0]} delete: {texts.ended(status)}: {text}")
    except OSError as error:
        problems.append(texts.unstartable(error))
    try:
        unmount_recursive(f"{directory}/{bundle.ROOTFS}")
    except (DunnageError, OSError) as error:
        problems.append(f"unmount {directory}/{bundle.ROOTFS}: {error}")
    return problems
