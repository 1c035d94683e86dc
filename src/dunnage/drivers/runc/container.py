"""Containers by runc or crun: their init and their execs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from dunnage.bootstrap import bundle
from dunnage.drivers.contract import (
    Checkpoint,
    Container,
    Creation,
    Hear,
    OomKilled,
    Process,
    Streams,
)
from dunnage.errors import (
    DunnageError,
    NotFound,
    Unknown,
)
from dunnage.host.cgroups import (
    OomKills,
    Stats,
    attaching,
    of_process,
    read_stats,
    remove_empty_apart,
)
from dunnage.host.mounts import (
    mount_all_apart,
    unmount_recursive,
    unmount_recursive_apart,
)
from dunnage.host.procs import Children
from dunnage.host.stdio import Held

from . import criu, notes, stale, texts, traces
from .command import Command
from .exec import RuncExec
from .process import RuncProcess

_log = logging.getLogger(__name__)


class RuncContainer(RuncProcess, Container):
    """A container and its init."""

    def __init__(
        self,
        children: Children,
        command: Command,
        creation: Creation,
        held: Held,
        cgroup: traces.Future,
        *,
        init_is_outlived: bool,
    ) -> None:
        streams = creation.streams
        super().__init__(children, command, creation.bundle, streams, held, OomKills())
        self._creation = creation
        self._cgroup = cgroup
        self.init_is_outlived = init_is_outlived
        self._directories: dict[str, str] = {}
        self._log = f"{creation.bundle}/{bundle.RUNTIME_LOG}"
        self._is_frozen = False
        self._is_killed = False

    async def create(self) -> None:
        """Mount the root filesystem and have the runtime create the container.

        One that is to be restored is made by its start.
        """
        try:
            if self._creation.rootfs:
                await mount_all_apart(
                    self._children, self._creation.rootfs, self._rootfs
                )
            if not self._creation.checkpoint:
                given = []
                if self._command.options.no_pivot_root:
                    given.append("--no-pivot")
                if self._command.options.no_new_keyring:
                    given.append("--no-new-keyring")
                await self._make("OCI runtime create failed", ["create"], given)
        except BaseException:
            with contextlib.suppress(DunnageError, OSError):
                await self.release()
            raise

    async def _make(
        self, prefix: str, command: Sequence[str], given: Sequence[str]
    ) -> None:
        """Have the runtime make the container; a failure leaves nothing of it."""
        state = self._command.state_directory
        stale.drop(state)
        existed = os.path.exists(state)
        pid_file = f"{self._bundle}/{bundle.INIT_PID}"
        arguments = [*command, "--bundle", self._bundle, "--pid-file", pid_file, *given]
        try:
            await self._run(prefix, arguments, self._log, pid_file)
            self._look_for_cgroup()
        except BaseException:
            # A runtime that failed has undone its work; one that was killed has not,
            # nor has one that succeeded before we failed. What was there before is
            # somebody else's container of that id.
            if not existed and os.path.exists(state):
                with contextlib.suppress(DunnageError):
                    await self._command.plain(["delete", "--force"])
            raise

    def _look_for_cgroup(self) -> None:
        """Find the cgroup as long as init lives, and watch it."""
        path, is_new = self._cgroup
        try:
            self._directories = of_process(self.pid, path)
            self._kills.watch(self._directories, is_new=is_new)
        except OSError as error:
            text = "OOM kills will not be told: %s"
            _log.warning(text, error, extra={"container": self._command.id})

    def listen(self, hear: Hear) -> None:
        self._kills.listen(lambda: hear(OomKilled()))
        super().listen(hear)

    @property
    def _rootfs(self) -> str:
        return f"{self._bundle}/{bundle.ROOTFS}"

    async def start(self) -> None:
        if self._creation.checkpoint:
            attaching.expect()
            await criu.restore(
                self._children, self._command, self._creation, self._make
            )
        else:
            await self._command.logged("OCI runtime start failed", ["start"], self._log)

    async def kill(self, signum: int, *, everything: bool = False) -> None:
        arguments = ["kill", *(["--all"] if everything else [])]
        try:
            await self._command.plain(arguments, str(signum))
        except Unknown as error:
            state = self._command.state_directory
            failure = texts.kill_failure(error.message, state)
            is_over = self._child and self._child.exited and not everything
            if is_over and not isinstance(failure, NotFound):
                # Whatever words a runtime that we do not know has for that.
                failure = NotFound("process already finished")
            raise failure from error
        if signum == signal.SIGKILL:
            self._is_killed = True
            await self._let_die()

    async def pause(self) -> None:
        await self._command.logged("OCI runtime pause failed", ["pause"], self._log)
        self._is_frozen = True
        await self._let_die()

    async def resume(self) -> None:
        await self._command.logged("OCI runtime resume failed", ["resume"], self._log)
        self._is_frozen = False

    async def checkpoint(self, wanted: Checkpoint) -> None:
        try:
            await criu.checkpoint(
                self._children, self._command, wanted, self._bundle, self._log
            )
        except BaseException:
            # criu freezes what it writes; one that was killed has not thawed it.
            if not self._is_frozen:
                with contextlib.suppress(DunnageError):
                    await self._command.plain(["resume"])
            raise
        finally:
            await self._let_die()

    async def _let_die(self) -> None:
        """Thaw what was killed: in cgroup v1 nothing frozen dies.

        runc's kill does it itself, crun's (1.8) does not; and a pause may overtake it.
        """
        if self._is_killed and self._is_frozen:
            with contextlib.suppress(DunnageError):  # it was thawed, or is gone
                await self._command.plain(["resume"])

    async def delete(self) -> None:
        if self._creation.checkpoint and self._child is None:
            pass  # it was never restored: the runtime knows nothing of it
        elif await self._is_removed():
            _log.debug("removed: the runtime would do no more")
        else:
            await self._have_deleted()
        traces.forget(self._bundle)

    async def _is_removed(self) -> bool:
        """Remove what is left, if init is dead and the runtime would do no more."""
        if self._child is None or self._child.exited is None:
            return False
        noted = notes.read(self._command.state_directory, self._command.options)
        if noted is None:
            return False
        self._kills.close()  # the end of the cgroup would be news
        paths = noted.cgroups
        return (
            not paths or await remove_empty_apart(self._children, paths)
        ) and noted.remove()

    async def _have_deleted(self) -> None:
        try:
            await self._command.logged("failed to delete task", ["delete"], self._log)
        except Unknown as error:
            state = self._command.state_directory
            if not texts.is_about_nothing(error.message, state):
                raise

    async def release(self) -> None:
        self._kills.close()
        self._let_go_of_stdio()
        if self._creation.rootfs:
            rootfs = self._rootfs
            try:
                try:
                    await unmount_recursive_apart(self._children, rootfs)
                except OSError:
                    # No process can be had: better that we wait than that it stays.
                    unmount_recursive(rootfs)
            except DunnageError as error:
                raise Unknown(f"failed rootfs umount: {error}") from error

    async def pids(self) -> list[int]:
        said = await self._command.plain(["ps", "--format", "json"])
        return [int(pid) for pid in json.loads(said) or []]

    async def stats(self) -> Stats:
        reading = read_stats(self._directories, self.pid)
        while True:
            try:
                next(reading)
            except StopIteration as end:
                stats: Stats = end.value
                if not stats.values:
                    raise NotFound("cgroup does not exist") from None
                return stats
            await asyncio.sleep(0)

    async def update(self, resources: bytes) -> None:
        document = json.dumps(_object(resources, "resources")).encode()
        await self._command.plain(["update", "--resources", "-"], stdin=document)

    def add_exec(self, exec_id: str, spec: bytes, streams: Streams) -> Process:
        process = _object(spec, f"spec of exec {exec_id}")
        attaching.expect()
        process["terminal"] = streams.terminal
        document = json.dumps(process).encode()
        return RuncExec(
            *(self._children, self._command, self._bundle, streams, self._held),
            self._kills,
            exec_id=exec_id,
            document=document,
        )


def _object(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object that a client has given."""
    try:
        # Never guessing the encoding, which might import a codec.
        value = json.loads(str(data, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise Unknown(f"{what}: {error}") from error
    if not isinstance(value, dict):
        raise Unknown(f"{what}: not a JSON object")
    return value
