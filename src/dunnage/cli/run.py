"""``dunnage run``: a container from its bundle to its exit status.

Owns: the order of the steps, and that a failure leaves nothing behind.
Must not know: how any one step is done.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dunnage.api.runc_options_pb2 import Options as RuncOptions
from dunnage.api.types_pb2 import Mount
from dunnage.bootstrap import wire
from dunnage.errors import ConnectionBroken, DunnageError, InvalidArgument, NotFound
from dunnage.manager import bundles, dead, presence, spec
from dunnage.manager.burial import bury, bury_locked
from dunnage.manager.client import NULL, Stdio, Task
from dunnage.manager.dead import bury_dead
from dunnage.manager.inbox import Inbox
from dunnage.manager.launch import Shim, find_binary, reading_log
from dunnage.manager.lock import locked

from . import show, terminal
from .attend import attend, heard, is_of
from .errors import CannotStart
from .signals import Forwarding
from .streams import Streams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dunnage.manager.bundles import Bundle
    from dunnage.manager.places import Places

    from .context import Context

_log: Final = logging.getLogger("dunnage.cli")

DEFAULT_RUNTIME: Final = "io.containerd.dunnage.v2"

# Shims that take the runc shim's options; another one may refuse what it does not know.
_TAKES_RUNC_OPTIONS: Final = ("containerd-shim-dunnage-", "containerd-shim-runc-")
_STDIN_FD: Final = 0
_STDERR_FD: Final = 2


@dataclass(frozen=True, slots=True)
class Run:
    """The options of the command; one of ``rootfs`` and ``bundle`` is given."""

    name: str
    command: Sequence[str]
    rootfs: str = ""
    bundle: str = ""
    runtime: str = DEFAULT_RUNTIME
    oci_runtime: str = ""
    is_detached: bool = False
    is_removed: bool = False
    is_interactive: bool = False
    has_terminal: bool = False
    has_timeline: bool = False


async def run(context: Context, asked: Run) -> int:
    """Run a container; return its exit status, or 0 if it is detached.

    Cancelling it removes what has not started yet.
    """
    _check(asked)
    shim = Shim(find_binary(asked.runtime), context.places, debug=context.debug)
    config, rootfs = _config(context.places, asked)
    what = _What(rootfs, _options(context.places, asked, shim))
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(Forwarding())
        inbox = await stack.enter_async_context(Inbox(context.places))
        ahead, story = inbox.reader(), inbox.reader()
        streams = None
        if not asked.is_detached:
            streams = Streams(
                context.places.fifos,
                stdin_fd=_STDIN_FD if asked.is_interactive else None,
                stderr_fd=None if asked.has_terminal else _STDERR_FD,
            )
            stack.enter_context(streams)
        bundle = bundles.create(context.places, asked.name, json.dumps(config).encode())
        stdio = streams.stdio if streams else NULL
        place = _Place(shim, bundle, inbox)
        task = await _launch(
            stack, place, what, stdio, is_attended=not asked.is_detached
        )
        stack.callback(task.close)
        if streams is None:
            await heard(inbox, ahead, "/tasks/start", asked.name)
            return 0
        is_gone = False
        try:
            exit_ = await attend(task, streams, signals)
        except ConnectionBroken:
            _log.warning("the shim of %s has died", asked.name)
            is_gone = True
            exit_ = await bury_dead(shim, bundle, inbox)
            await streams.drained()
        finally:
            if asked.is_removed and not is_gone:
                await bury(shim, bundle, task, inbox, force=True)
        is_last = asked.is_removed or is_gone
        last = "/tasks/delete" if is_last else "/tasks/exit"
        await heard(inbox, ahead, last, asked.name)
        if asked.has_timeline:
            events = [event for event in story.read() if is_of(event, asked.name)]
            print(*show.timeline(events), sep="\n", file=sys.stderr)
        return exit_.status


@dataclass(frozen=True, slots=True)
class _Place:
    shim: Shim
    bundle: Bundle
    inbox: Inbox


@dataclass(frozen=True, slots=True)
class _What:
    rootfs: Sequence[Mount]
    options: wire.Options | None


async def _launch(
    stack: AsyncExitStack,
    place: _Place,
    what: _What,
    stdio: Stdio,
    *,
    is_attended: bool,
) -> Task:
    """Start a shim, and in it the task; or leave nothing behind.

    The shim's log is read for as long as the stack stands.
    """
    shim, bundle = place.shim, place.bundle
    task = None
    is_created = False
    # Others must not take what is half made for what is left of a dead shim.
    async with locked(bundle):
        try:
            stack.enter_context(reading_log(bundle, debug=shim.debug))
            found = await shim.start(bundle, what.options)
            task = await Task.connect_to(found, bundle, shim.places.namespace)
            try:
                await presence.note(task)
                await task.create(what.rootfs, stdio, what.options)
                is_created = True
                await task.start()
            except DunnageError as error:
                if is_created and is_attended and isinstance(error, ConnectionBroken):
                    # It may have run: who attends it sees to its end.
                    return task
                raise CannotStart(error.wire_text) from error
        except BaseException as error:
            try:
                is_dead = isinstance(error.__cause__, ConnectionBroken)
                if is_dead and is_created:
                    # Its creation was said, so its end must be.
                    await dead.bury_locked(shim, bundle, place.inbox)
                else:
                    # Of one that was not, whatever its runtime has finished.
                    callee = None if is_dead else task
                    await bury_locked(shim, bundle, callee, place.inbox, force=True)
            except (DunnageError, OSError) as failure:
                # Why it did not start matters more.
                _log.warning("%s is not cleaned up: %s", bundle.path, failure)
            raise
    return task


def _check(asked: Run) -> None:
    """Refuse what cannot be done, with the reason."""
    if asked.is_detached and asked.is_removed:
        raise InvalidArgument(
            "-d and --rm together: nobody is left to remove it (dunnage rm does)"
        )
    if asked.is_detached and (
        asked.is_interactive or asked.has_terminal or asked.has_timeline
    ):
        raise InvalidArgument(
            "-d with -i, -t or --timeline: nobody is left to copy its input, to be at "
            "its terminal or to see its events"
        )
    if asked.has_terminal:
        terminal.check(is_interactive=asked.is_interactive)


def _config(places: Places, asked: Run) -> tuple[spec.Spec, Sequence[Mount]]:
    """Return the ``config.json`` and what the shim shall mount."""
    cgroup = f"{places.cgroup}/{asked.name}"
    size = terminal.size() if asked.has_terminal else None
    if asked.bundle:
        config = spec.from_bundle(
            Path(asked.bundle), asked.command, cgroup=cgroup, terminal=size
        )
        return config, ()
    rootfs = Path(asked.rootfs).absolute()
    if not rootfs.is_dir():
        raise NotFound(f"root filesystem {asked.rootfs}: no such directory")
    config = spec.for_directory(
        asked.command, hostname=asked.name, cgroup=cgroup, terminal=size
    )
    return config, (Mount(type="bind", source=str(rootfs), options=["rbind", "rw"]),)


def _options(places: Places, asked: Run, shim: Shim) -> wire.Options | None:
    if not asked.oci_runtime and not shim.binary.name.startswith(_TAKES_RUNC_OPTIONS):
        return None
    binary = ""
    if asked.oci_runtime:
        found = shutil.which(asked.oci_runtime)
        if found is None:
            raise NotFound(f"OCI runtime {asked.oci_runtime}: executable")
        binary = str(Path(found).absolute())
    options = RuncOptions(binary_name=binary, root=str(places.runtime_root))
    return wire.Options(options.DESCRIPTOR.full_name, options.SerializeToString())
