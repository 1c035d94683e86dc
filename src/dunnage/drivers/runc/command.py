"""The command line of runc and crun.

A command's own log tells why it failed; the log is appended to over the container's
life, so only what a command added is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

from dunnage.errors import Unknown
from dunnage.host.procs import Children, Completed

from . import texts
from .options import Options


class Command:
    """Calls the runtime for one container."""

    def __init__(
        self, children: Children, options: Options, namespace: str, id_: str
    ) -> None:
        self.options = options
        self._children = children
        self._globals = options.command(namespace)
        self._id = id_
        self.state_directory = f"{options.runtime_root(namespace)}/{id_}"
        self._env = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"}
        # With that variable runc would talk to systemd, and wait for an answer.

    async def attached(
        self,
        prefix: str,
        arguments: Sequence[str],
        log: str,
        fds: tuple[int, int, int],
        cwd: str,
    ) -> None:
        """Run a command whose stdio becomes that of the container's process.

        Raises:
            Unknown: it failed; the text is ``prefix`` and its last error.
        """
        offset = _size(log)
        argv = self._argv(arguments, log)
        try:
            child = self._children.spawn(argv, fds=fds, env=self._env, cwd=cwd)
        except OSError as error:
            raise texts.failure(
                prefix, _added(log, offset), texts.unstartable(error)
            ) from error
        try:
            exited = await child.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                child.kill(signal.SIGKILL)
            raise
        if exited.status != 0:
            raise texts.failure(prefix, _added(log, offset), texts.ended(exited.status))

    async def logged(self, prefix: str, arguments: Sequence[str], log: str) -> None:
        """Run a command that reports its failure in the log.

        Raises:
            Unknown: it failed; the text is ``prefix`` and its last error.
        """
        offset = _size(log)
        try:
            completed = await self._children.run(
                self._argv(arguments, log), env=self._env
            )
        except OSError as error:
            raise texts.failure(
                prefix, _added(log, offset), texts.unstartable(error)
            ) from error
        if completed.status != 0:
            reason = texts.ended(completed.status)
            raise texts.failure(prefix, _added(log, offset), reason)

    async def plain(self, arguments: Sequence[str], *after: str) -> Completed:
        """Run a command that reports its failure on stderr; ``after`` follows the id.

        Raises:
            Unknown: it could not be started.
        """
        try:
            argv = [*self._argv(arguments), *after]
            return await self._children.run(argv, env=self._env)
        except OSError as error:
            raise Unknown(texts.unstartable(error)) from error

    def _argv(self, arguments: Sequence[str], log: str = "") -> list[str]:
        logging = ["--log", log, "--log-format", "json"] if log else []
        return [*self._globals, *logging, *arguments, self._id]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _added(path: str, offset: int) -> str | OSError:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(offset)
            return file.read()
    except OSError as error:
        return error
