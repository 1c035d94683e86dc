"""Checkpoints, and restores from them: what runtimes are told, and what criu leaves.

runc and crun have criu do the work, which logs into a directory of its own; their own
words for its failure are few, so what it has logged last is added to them.

Of what a checkpoint was allowed, its restore must be allowed the same, and a Create has
no field for that: so it is noted in the image, and travels with it.

Invariant (image-whole-or-none): a checkpoint that failed leaves nothing in the image's
    directory that was not there before, nor the directory if it was not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from dunnage.bootstrap import bundle
from dunnage.drivers.contract import Checkpoint, Creation
from dunnage.errors import DunnageError, FailedPrecondition, NotFound
from dunnage.host.procs import Children

from . import texts
from .command import Command

_log = logging.getLogger(__name__)

Make: TypeAlias = Callable[[str, Sequence[str], Sequence[str]], Awaitable[None]]
"""Has the runtime make a container: an error's prefix, the command, its arguments."""

ALLOWED: Final = "dunnage-checkpoint.json"
"""In an image: what its restore is to be allowed."""
PARENT: Final = "parent"
"""In an image: criu's link to the one that it adds to."""
_LOG_BYTES: Final = 1 << 20
"""How much of criu's log is kept: its end."""
_FLAGS: Final = {
    "open_tcp": "--tcp-established",
    "external_unix_sockets": "--ext-unix-sk",
    "terminal": "--shell-job",
    "file_locks": "--file-locks",
}


async def checkpoint(
    children: Children, command: Command, wanted: Checkpoint, directory: str, log: str
) -> None:
    """Have the runtime write an image of its container.

    Args:
        children: the parent of what is run.
        command: the runtime.
        wanted: what to write, and where.
        directory: the bundle.
        log: where the runtime logs.

    Raises:
        DunnageError: it failed; nothing of the image is left.
        OSError: the directories cannot be made, or not be written to.
    """
    allowed = {name: True for name in _FLAGS if getattr(wanted, name)} | {
        name: value
        for name in ("empty_namespaces", "cgroups_mode")
        if (value := getattr(wanted, name))
    }
    arguments = [*_globals(command), "checkpoint", "--image-path", wanted.path]
    if wanted.parent_path:
        # As criu's link to it, it is relative to the image (and runc insists).
        parent = os.path.join(wanted.path, wanted.parent_path)
        arguments += ["--parent-path", os.path.relpath(parent, wanted.path)]
    if not wanted.exit:
        arguments.append("--leave-running")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(_written(children, wanted.path))
        with contextlib.suppress(FileNotFoundError):  # of an earlier image
            os.unlink(f"{wanted.path}/{ALLOWED}")
        if allowed:
            bundle.write(wanted.path, ALLOWED, json.dumps(allowed))
        work = await stack.enter_async_context(
            _working(children, directory, wanted.work_path)
        )
        arguments += ["--work-path", work, *_allow(allowed)]
        stack.enter_context(_explained(work, directory, bundle.CRIU_DUMP_LOG))
        await command.logged("OCI runtime checkpoint failed", arguments, log)


async def restore(
    children: Children, command: Command, creation: Creation, make: Make
) -> None:
    """Have the runtime make a container from an image.

    Raises:
        DunnageError: it failed, or the image does not fit what was asked.
        OSError: the image is not there, or a directory cannot be made.
    """
    image = creation.checkpoint
    allowed = _allowed(image)
    arguments = ["--detach", "--image-path", image]
    if command.options.no_pivot_root and not command.is_crun:
        arguments.append("--no-pivot")
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_parent(image, creation.parent_checkpoint))
        work = await stack.enter_async_context(
            _working(children, creation.bundle, command.options.criu_work_path)
        )
        arguments += ["--work-path", work, *_allow(allowed)]
        stack.enter_context(_explained(work, creation.bundle, bundle.CRIU_RESTORE_LOG))
        verb = [*_globals(command), "restore"]
        await make("OCI runtime restore failed", verb, arguments)


def _globals(command: Command) -> list[str]:
    path = command.options.criu_path
    return ["--criu", path] if path else []


def _allow(allowed: dict[str, Any]) -> list[str]:
    arguments = [flag for name, flag in _FLAGS.items() if allowed.get(name) is True]
    if mode := allowed.get("cgroups_mode"):
        arguments.append(f"--manage-cgroups-mode={mode}")
    empty = allowed.get("empty_namespaces") or ()
    return [*arguments, *(f"--empty-ns={namespace}" for namespace in empty)]


def _allowed(image: str) -> dict[str, Any]:
    """Return what is noted in an image; nothing in one that is not ours."""
    if not os.path.isdir(image):
        raise NotFound(f"checkpoint {image}: no such directory")
    said = bundle.read(image, ALLOWED)
    try:
        noted = json.loads(said or "{}")
    except (ValueError, RecursionError) as error:
        raise FailedPrecondition(f"{image}/{ALLOWED}: {error}") from error
    if not isinstance(noted, dict):
        raise FailedPrecondition(f"{image}/{ALLOWED}: not a JSON object")
    if not isinstance(noted.get("empty_namespaces", []), list):
        raise FailedPrecondition(f"{image}/{ALLOWED}: empty_namespaces is no list")
    return noted


@contextlib.contextmanager
def _parent(image: str, parent: str) -> Iterator[None]:
    """Let an image be found that this one adds to, also where it was moved to."""
    link = f"{image}/{PARENT}"
    if not parent or _is_same(link, parent):
        yield
        return
    if os.path.lexists(link):
        there = os.path.realpath(link)
        raise FailedPrecondition(f"checkpoint {image} adds to {there}, not to {parent}")
    os.symlink(parent, link)
    try:
        yield
    finally:
        os.unlink(link)


def _is_same(link: str, path: str) -> bool:
    try:
        return os.path.samefile(link, path)
    except OSError:
        return False


@contextlib.asynccontextmanager
async def _written(children: Children, path: str) -> AsyncIterator[None]:
    """Make a directory; after a failure nothing is in it that was not before."""
    before: set[str] | None = None
    with contextlib.suppress(FileNotFoundError):
        before = set(os.listdir(path))
    os.makedirs(path, 0o700, exist_ok=True)
    try:
        yield
    except BaseException:
        await _remove(children, path, before)
        raise


@contextlib.asynccontextmanager
async def _working(children: Children, directory: str, path: str) -> AsyncIterator[str]:
    """Make a directory for criu to work in; it stays if the client has named it."""
    if path:
        os.makedirs(path, 0o700, exist_ok=True)
        yield path
        return
    # The daemon's place for this is on a disk, the bundle in memory.
    place = f"{directory}/{bundle.WORK}"
    work = f"{place if os.path.isdir(place) else directory}/{bundle.CRIU_WORK}"
    os.makedirs(work, 0o700, exist_ok=True)
    try:
        yield work
    finally:
        await _remove(children, work, None)


async def _remove(children: Children, path: str, but: set[str] | None) -> None:
    """Remove a directory, or what is in it ``but`` some; apart, it may take long."""

    def remove() -> None:
        if but is None:
            shutil.rmtree(path)
            return
        for name in set(os.listdir(path)) - but:
            victim = f"{path}/{name}"
            if os.path.isdir(victim) and not os.path.islink(victim):
                shutil.rmtree(victim)
            else:
                os.unlink(victim)

    try:
        await children.call(remove)
    except (DunnageError, OSError) as error:
        _log.warning("%s is not removed: %s", path, error)


@contextlib.contextmanager
def _explained(work: str, directory: str, kept: str) -> Iterator[None]:
    """Add to a failure what criu has logged, and keep the log in the bundle."""
    name = kept.removeprefix("criu-")
    for path in (f"{work}/{name}", f"{directory}/{kept}"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    try:
        yield
    except DunnageError as error:
        log = _end_of(f"{work}/{name}")
        if log:
            try:
                bundle.write(directory, kept, log)
            except OSError as problem:
                _log.error("%s is not kept: %s", kept, problem)
        where = f"{work}/{name}", f"{directory}/{kept}"
        raise texts.criu_failure(error, log, *where) from error


def _end_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_BYTES))
            return file.read()
    except OSError:
        return b""
