"""The components of a root filesystem, mounted in order, or not at all.

Owns: what one mount is, and the way back when a later one fails.
Must not know: who asked.
It may block: it belongs into a process of its own, never into an event loop.

Invariant (mounts-undone): when `mount_all` raises, nothing that it mounted is mounted
any more, or its error says what is.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dunnage.errors import DunnageError, Unimplemented

from . import syscalls
from .options import MountFlag, parse_options
from .unmount import unmount

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Mount:
    """One component of a root filesystem; ``target`` is a path inside of it."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


def mount_all(mounts: Sequence[Mount], rootfs: str) -> None:
    """Mount every component in order on the directory ``rootfs``."""
    mounted: list[str] = []
    try:
        for component in mounts:
            _mount(component, rootfs, mounted)
    except (DunnageError, OSError, ValueError) as error:
        kind = type(error) if isinstance(error, DunnageError) else DunnageError
        text = "; ".join([_text(error), *_undo(mounted)])
        raise kind(f"failed to mount rootfs component: {text}") from error


def _mount(component: Mount, rootfs: str, mounted: list[str]) -> None:
    """Mount one component; note it in ``mounted`` as soon as it is to be undone."""
    if component.type.startswith(("fuse.", "fuse3.")):
        raise Unimplemented(f"mount type {component.type}")
    flags, data = parse_options(component.options)
    target = _resolve(rootfs, component.target)
    try:
        syscalls.mount(component.source, target, component.type, flags, data)
        if not flags & MountFlag.REMOUNT:
            mounted.append(target)
        if flags & MountFlag.BIND and flags & MountFlag.RDONLY:
            # A bind has the flags of its source: only a remount makes it read-only.
            syscalls.mount("", target, "", flags | MountFlag.REMOUNT, "")
    except (OSError, ValueError) as error:
        text = failure(component, target, flags, data, error)
        raise DunnageError(text) from error


def failure(
    component: Mount,
    target: str,
    flags: MountFlag,
    data: str,
    error: OSError | ValueError,
) -> str:
    """Say which call of mount(2) was refused, and how."""
    return (
        f'mount source: "{component.source}", target: "{target}", '
        f'fstype: {component.type}, flags: {flags.value}, data: "{data}", '
        f"err: {syscalls.said(error)}"
    )


def _undo(mounted: list[str]) -> list[str]:
    """Unmount in reverse order; return what could not be."""
    failures = []
    for target in reversed(mounted):
        try:
            unmount(target)
        except DunnageError as error:
            failures.append(error.message)
    return failures


def _resolve(rootfs: str, target: str) -> str:
    """Return the real path of ``target`` inside ``rootfs``.

    The content of an image is a stranger's, but nothing runs in it yet: what the kernel
    resolves now is still there when it is mounted on.
    """
    if not target:
        return os.path.realpath(rootfs)
    try:
        fd = syscalls.open_in_root(rootfs, target)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Unimplemented("mount targets, on a kernel before 5.6") from error
        raise DunnageError(f"target {target}: {syscalls.said(error)}") from error
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    finally:
        os.close(fd)


def _text(error: DunnageError | OSError | ValueError) -> str:
    return error.message if isinstance(error, DunnageError) else syscalls.said(error)
