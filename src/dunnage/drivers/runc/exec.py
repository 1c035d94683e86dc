"""Further processes of a container."""

from __future__ import annotations

import contextlib
import os

from dunnage.drivers.contract import Streams
from dunnage.errors import FailedPrecondition, NotFound, Unknown
from dunnage.host.cgroups import OomKills, attaching
from dunnage.host.procs import Children
from dunnage.host.stdio import Held, Logged

from .command import Command
from .process import RuncProcess


class RuncExec(RuncProcess):
    """A further process of a container."""

    def __init__(
        self,
        children: Children,
        command: Command,
        directory: str,
        streams: Streams,
        held: Held,
        kills: OomKills,
        *,
        exec_id: str,
        document: bytes,
    ) -> None:
        super().__init__(children, command, directory, streams, held, kills)
        self._document = document
        self._exec_id = exec_id
        base = f"{directory}/exec-{exec_id}"  # an exec may be called "init"
        self._process_file = f"{base}.process.json"
        self._pid_file = f"{base}.pid"
        self._log = f"{base}.log.json"

    @property
    def _logged(self) -> Logged:
        return super()._logged._replace(id=self._exec_id)

    async def start(self) -> None:
        attaching.expect()
        # The file may hold secrets of the environment.
        _unlink(self._process_file)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(self._process_file, flags, 0o600)
            with open(fd, "wb") as file:
                file.write(self._document)
            arguments = ["exec", "--process", self._process_file, "--detach"]
            arguments += ["--pid-file", self._pid_file]
            prefix = "OCI runtime exec failed"
            await self._run(prefix, arguments, self._log, self._pid_file)
        finally:
            _unlink(self._process_file)

    async def kill(self, signum: int, *, everything: bool = False) -> None:  # noqa: ARG002  # of an exec there is one
        if self._child is None:
            raise FailedPrecondition("process not created")
        try:
            self._child.kill(signum)
        except ProcessLookupError:
            raise NotFound("process already finished") from None
        except OSError as error:
            text = f"unknown error after kill: {os.strerror(error.errno or 0).lower()}"
            raise Unknown(f"exec kill error: {text}") from error

    async def delete(self) -> None:
        _unlink(self._pid_file)
        _unlink(self._log)

    async def release(self) -> None:
        self._let_go_of_stdio()


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
