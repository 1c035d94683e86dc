"""The components of a root filesystem, mounted in order, or not at all.

Owns: what one mount is, and the way back when a later one fails.
Must not know: who asked.
It may block, works in other directories and forks: it belongs into a process of its
own, never into an event loop.

Invariant (mounts-undone): when `mount_all` raises, nothing that it mounted is mounted
any more, or its error says what is.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dunnage.errors import DunnageError, Unimplemented
from dunnage.host.procs import run_to_end

from . import layers, loop, owners, syscalls
from .options import MountFlag, Special, parse_options, take_special
from .unmount import mount_points, unmount

if TYPE_CHECKING:
    from collections.abc import Sequence

_OVERLAY: Final = "overlay"
_HELPERS: Final = ("fuse", "fuse3")
"""``fuse3.sshfs`` is mounted by ``mount.fuse3``."""
_KEPT: Final = {
    os.ST_NOSUID: MountFlag.NOSUID,
    os.ST_NODEV: MountFlag.NODEV,
    os.ST_NOEXEC: MountFlag.NOEXEC,
    os.ST_NOATIME: MountFlag.NOATIME,
    os.ST_NODIRATIME: MountFlag.NODIRATIME,
    os.ST_RELATIME: MountFlag.RELATIME,
}


@dataclass(frozen=True, slots=True)
class Mount:
    """One component of a root filesystem; ``target`` is a path inside of it."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()

    @property
    def helper(self) -> str:
        """The program that mounts it; empty: we do."""
        kind, dot, _ = self.type.partition(".")
        return f"mount.{kind}" if dot and kind in _HELPERS else ""


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
    """Mount one component; note in ``mounted``, as soon as it is, what is to be undone.

    Only then: to undo what was not done would be to unmount another's.
    """
    target = _resolve(rootfs, component.target)
    if component.helper:
        _have_mounted(component, target, mounted)
        return
    special = take_special(component.options)
    with contextlib.ExitStack() as until:
        namespace = -1
        if special.is_mapped:
            namespace = _user_namespace(special)
            until.callback(os.close, namespace)
        words, is_mapped = special.words, False
        if component.type == _OVERLAY:
            words, is_mapped = _layered(words, target, namespace, mounted, until)
        flags, data = parse_options(words)
        try:
            source = component.source
            if special.is_loop:
                read_only = bool(flags & MountFlag.RDONLY)
                attached = loop.attached(source, read_only=read_only)
                source = until.enter_context(attached)
            syscalls.mount(source, target, component.type, flags, data)
            if not flags & MountFlag.REMOUNT:
                mounted.append(target)
            if flags & MountFlag.BIND and flags & MountFlag.RDONLY:
                _make_read_only(target, flags)
            if special.is_mapped and not is_mapped:
                recursive = bool(flags & MountFlag.REC)
                owners.mount_again(target, namespace, recursive=recursive)
                mounted.append(target)
        except (OSError, ValueError) as error:
            text = failure(component, target, flags, data, error)
            raise DunnageError(text) from error


def _layered(
    words: tuple[str, ...],
    target: str,
    namespace: int,
    mounted: list[str],
    until: contextlib.ExitStack,
) -> tuple[tuple[str, ...], bool]:
    """Bring an overlay's lower directories into the form that is needed.

    Where there are too many of them, they are named from the directory that all are in,
    and that is where we work ``until`` they are mounted.
    With other owners, that directory is mounted on the target, with those owners, and
    stays there under the overlay: unmounted with it, by whoever comes after a crash,
    too.
    (What an overlay has on top, its upper directory, is made with its owners.)

    Returns:
        The options; and whether the lower directories have the owners that they need.
    """
    if namespace < 0:
        with contextlib.suppress(DunnageError):
            parse_options(words)
            return words, False  # there is room for all
    short = layers.shorten(words)
    if short is None:
        return words, False
    directory = short.directory
    try:
        if namespace >= 0:
            owners.mount_read_only(directory, target, namespace)
            mounted.append(target)
            directory = target
        until.enter_context(layers.working_in(directory))
    except OSError as error:
        text = f"layers in {short.directory}: {syscalls.said(error)}"
        raise DunnageError(text) from error
    return short.words, namespace >= 0


def _user_namespace(special: Special) -> int:
    try:
        return owners.open_user_namespace(special.uid_map, special.gid_map)
    except OSError as error:
        raise DunnageError(f"map of owners: {syscalls.said(error)}") from error


def _make_read_only(target: str, flags: MountFlag) -> None:
    """Make a bind read-only: it has the flags of its source until it is remounted."""
    flags |= MountFlag.REMOUNT
    try:
        syscalls.mount("", target, "", flags, "")
    except PermissionError:
        # In a user namespace, what the source forbids may not be allowed again.
        found = os.statvfs(target).f_flag
        for bit, kept in _KEPT.items():
            flags |= kept if found & bit else MountFlag(0)
        syscalls.mount("", target, "", flags, "")


def _have_mounted(component: Mount, target: str, mounted: list[str]) -> None:
    """Have a component mounted by the program for its type.

    What that leaves running, to serve the file system, ends when it is unmounted.
    """
    words = [word for option in component.options for word in ("-o", option)]
    kind = component.type.partition(".")[2]
    argv = [component.helper, component.source, target, *words, "-t", kind]
    try:
        status, said = run_to_end(argv)
    except OSError as error:
        raise DunnageError(f"{component.helper}: {syscalls.said(error)}") from error
    if target in mount_points():
        mounted.append(target)
    if status != 0 or target not in mounted:
        text = said.decode(errors="replace").strip()
        raise DunnageError(f"{' '.join(argv)}: exit status {status}: {text}")


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
