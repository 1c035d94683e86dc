"""The bundle of a task: made, listed, removed.

Owns: the order in which its directories come and go, and their modes.
Must not know: shims, protobuf.

Invariant (all-or-nothing): a `create` that fails leaves nothing behind.
Invariant (never-through-a-mount): `delete` unmounts and then removes with rmdir; what
    is removed recursively has no mount in it.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dunnage.bootstrap import bundle as files
from dunnage.bootstrap import identifiers
from dunnage.errors import AlreadyExists, InvalidArgument, NotFound
from dunnage.host.mounts import unmount_recursive

from .eventlog import Reader
from .lock import places_locked
from .places import PASSAGE_MODE, make_passage

if TYPE_CHECKING:
    from .places import Places

_PRIVATE_MODE: Final = 0o700
# For a container whose root is another user: its group may pass, nobody else.
_REMAPPED_MODE: Final = 0o710


@dataclass(frozen=True, slots=True)
class Bundle:
    """The directory that a shim is started in."""

    id: str
    path: Path
    work: Path

    @property
    def rootfs(self) -> Path:
        """Where the root filesystem is mounted."""
        return self.path / files.ROOTFS


def create(places: Places, container_id: str, config: bytes) -> Bundle:
    """Make a bundle with this ``config.json``.

    Raises:
        InvalidArgument: the id is no identifier, or the config no JSON object.
        AlreadyExists: there is such a task.
        OSError: no directory could be made.
    """
    identifiers.validate("name", container_id)
    gid = _mapped_root_gid(config)
    bundle = _bundle(places, container_id)
    make_passage(places.state)
    with places_locked(places, exclusively=False), ExitStack() as undo:
        make_passage(places.bundles)
        make_passage(places.works)
        try:
            bundle.path.mkdir(mode=_PRIVATE_MODE)
        except FileExistsError:
            raise AlreadyExists(f"task {container_id}") from None
        undo.callback(_remove_tree, bundle.path)
        if gid is not None:
            os.chown(bundle.path, -1, gid)
            bundle.path.chmod(_REMAPPED_MODE)
        bundle.rootfs.mkdir(mode=PASSAGE_MODE)
        # Left over from a life before the reboot.
        _remove_tree(bundle.work)
        bundle.work.mkdir(mode=PASSAGE_MODE)
        undo.callback(_remove_tree, bundle.work)
        (bundle.path / files.WORK).symlink_to(bundle.work)
        (bundle.path / files.CONFIG).write_bytes(config)
        log_ends = Reader.at_end(places.event_log).offset
        (bundle.path / files.BORN).write_text(str(log_ends))
        undo.pop_all()
    return bundle


def find(places: Places, container_id: str) -> Bundle:
    """Return the bundle of a task.

    Raises:
        InvalidArgument: the id is no identifier.
        NotFound: there is no such task.
    """
    identifiers.validate("name", container_id)
    bundle = _bundle(places, container_id)
    if not bundle.path.is_dir():
        raise NotFound(f"task {container_id}")
    return bundle


def list_all(places: Places) -> list[Bundle]:
    """Return every bundle of the namespace, in the order of their ids."""
    try:
        names = sorted(os.listdir(places.bundles))
    except FileNotFoundError:
        return []
    return [
        _bundle(places, name)
        for name in names
        if identifiers.is_identifier(name) and (places.bundles / name).is_dir()
    ]


def delete(bundle: Bundle) -> None:
    """Remove a bundle and its work directory; what is missing is no error.

    Raises:
        DunnageError: something in it is, and stays, mounted; it is still there then.
        OSError: it cannot be removed.
    """
    unmount_recursive(str(bundle.rootfs))
    # Never recursively: was it still mounted, that would empty the image.
    with suppress(FileNotFoundError):
        bundle.rootfs.rmdir()
    _remove_tree(bundle.path)
    _remove_tree(bundle.work)


def _bundle(places: Places, container_id: str) -> Bundle:
    return Bundle(
        container_id, places.bundles / container_id, places.works / container_id
    )


def _remove_tree(path: Path) -> None:
    """Remove a directory in one step, as far as a later reader can see."""
    unmount_recursive(str(path))
    hidden = path.with_name(f".{path.name}")
    # A crash may have left one.
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        path.rename(hidden)
    except FileNotFoundError:
        return
    shutil.rmtree(hidden)


def _mapped_root_gid(config: bytes) -> int | None:
    """Return the gid outside of what is 0 in a user namespace, if there is one."""
    try:
        spec = json.loads(config)
    except ValueError as error:
        raise InvalidArgument(f"{files.CONFIG} is no JSON: {error}") from error
    if not isinstance(spec, dict):
        raise InvalidArgument(f"{files.CONFIG} is no JSON object")
    linux = spec.get("linux")
    mappings = linux.get("gidMappings") if isinstance(linux, dict) else None
    for mapping in mappings or ():
        if isinstance(mapping, dict) and mapping.get("containerID") == 0:
            gid = mapping.get("hostID")
            return gid if isinstance(gid, int) else None
    return None
