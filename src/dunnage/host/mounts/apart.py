"""Mounting and unmounting in a process of its own, for an event loop.

The usual root filesystem is one mount, and one unmount leaves nothing of it.
That much `dunnage.host.native` does in a process that shares our memory; for everything
else, and where it was not built, a process is forked to run `mount_all` or
`unmount_recursive`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from dunnage.errors import DunnageError, Unknown
from dunnage.host import errands, native

from .options import MountFlag, parse_options, take_special
from .rootfs import Mount, failure, mount_all
from .unmount import unmount_recursive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dunnage.host.procs import Children


async def mount_all_apart(
    children: Children, mounts: Sequence[Mount], rootfs: str
) -> None:
    """Do what `mount_all` does.

    Raises:
        DunnageError: what `mount_all` raises; `Internal` if the process was killed.
        OSError: no process can be had.
    """
    if native.library and (call := _only_call(mounts, rootfs)):
        code = await errands.run(children, native.library.dunnage_mount, call)
        if code == 0:
            return
        if code != errno.ENOSYS:
            component, flags, data = mounts[0], MountFlag(call.flags), call.data or b""
            error = OSError(code, os.strerror(code))
            said = failure(component, rootfs, flags, os.fsdecode(data), error)
            raise Unknown(f"failed to mount rootfs component: {said}")
    await children.call(lambda: mount_all(mounts, rootfs))


async def unmount_recursive_apart(children: Children, path: str) -> None:
    """Do what `unmount_recursive` does.

    Raises:
        DunnageError: what that raises; `Internal` if the process was killed.
        OSError: no process can be had.
    """
    if native.library and "\0" not in path:
        call = native.Errand(target=os.fsencode(path))
        begin = native.library.dunnage_unmount
        if await errands.run(children, begin, call) == 0:
            return
    await children.call(lambda: unmount_recursive(path))


def _only_call(mounts: Sequence[Mount], rootfs: str) -> native.Errand | None:
    """Return the one call of mount(2) that the mounts come to, if it is one."""
    if len(mounts) != 1 or mounts[0].target:
        return None
    component = mounts[0]
    if component.helper or take_special(component.options).is_any:
        return None
    try:
        flags, data = parse_options(component.options)
    except DunnageError:
        return None
    needs_another = flags & MountFlag.BIND and flags & MountFlag.RDONLY
    texts = (component.source, rootfs, component.type, data)
    if needs_another or "\0" in "".join(texts):
        return None
    source, target, kind, said = (os.fsencode(text) for text in texts)
    return native.Errand(source, target, kind, said or None, flags=flags)
