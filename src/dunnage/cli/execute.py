"""``dunnage exec``: one more process in a container that runs.

Owns: the order of the steps, and that nothing of the exec stays.
Must not know: how any one step is done.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dunnage.bootstrap import bundle as files
from dunnage.errors import ConnectionBroken, DunnageError
from dunnage.manager import bundles, spec
from dunnage.manager.dead import bury_dead
from dunnage.manager.inbox import Inbox

from . import terminal
from .attend import attend, heard
from .errors import CannotStart
from .signals import Forwarding
from .streams import Streams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .context import Context

_STDIN_FD: Final = 0
_STDERR_FD: Final = 2


async def execute(
    context: Context,
    name: str,
    command: Sequence[str],
    *,
    is_interactive: bool,
    has_terminal: bool,
) -> int:
    """Run a command in a container; return its exit status.

    Cancelling it leaves the process running.
    """
    size = None
    if has_terminal:
        terminal.check(is_interactive=is_interactive)
        size = terminal.size()
    bundle = bundles.find(context.places, name)
    init = spec.read(bundle.path / files.CONFIG)
    process = spec.process_like_init(init, command, terminal=size)
    exec_id = f"exec-{secrets.token_hex(6)}"
    stdin_fd = _STDIN_FD if is_interactive else None
    stderr_fd = None if has_terminal else _STDERR_FD
    async with Inbox(context.places) as inbox:
        ahead = inbox.reader()
        task = await context.connect(bundle)
        try:
            with (
                Forwarding() as signals,
                Streams(
                    context.places.fifos, stdin_fd=stdin_fd, stderr_fd=stderr_fd
                ) as streams,
            ):
                await task.exec(exec_id, process, streams.stdio)
                try:
                    await task.start(exec_id)
                except ConnectionBroken:
                    raise
                except DunnageError as error:
                    with suppress(DunnageError):
                        await task.delete(exec_id)
                    raise CannotStart(error.wire_text) from error
                exit_ = await attend(task, streams, signals, exec_id)
                await task.delete(exec_id)
            await heard(inbox, ahead, "/tasks/exit", name, exec_id)
        except ConnectionBroken:
            # What became of the exec nobody knows; of the container we say it.
            await bury_dead(context.shim_of(bundle), bundle, inbox)
            raise
        finally:
            task.close()
    return exit_.status
