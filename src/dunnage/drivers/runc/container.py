"""Containers by runc or crun: their init and their execs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dunnage.bootstrap import bundle
from dunnage.drivers.contract import (
    Checkpoint,
    Container,
    Creation,
    Driver,
    Hear,
    OomKilled,
    Process,
    Streams,
)
from dunnage.errors import (
    DunnageError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unknown,
)
from dunnage.host.cgroups import (
    OomKills,
    Stats,
    attaching,
    expect_systemd,
    of_process,
    read_stats,
    remove_empty_apart,
)
from dunnage.host.mounts import (
    mount_all_apart,
    unmount_recursive,
    unmount_recursive_apart,
)
from dunnage.host.procs import Child, Children, Claim, Exited
from dunnage.host.stdio import Held, Logged, Stdio
from dunnage.oci import Spec

from . import criu, notes, stale, texts, traces
from .command import Command
from .options import Options

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RuncDriver(Driver):
    """Makes containers with the runtime that ``options`` name."""

    children: Children
    options: Options
    namespace: str
    held: Held
    """What its containers leave unread."""

    async def create(self, creation: Creation) -> Container:
        """Create a container; a failure leaves nothing behind."""
        attaching.expect()
        spec = _spec(creation.bundle)
        options = self.options.for_cgroup(spec.cgroups_path)
        if options.systemd_cgroup:
            expect_systemd()
        if creation.rootfs:
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{creation.bundle}/{bundle.ROOTFS}", 0o711)
        options.write(creation.bundle)
        cgroup = traces.write(creation.bundle, options, spec.cgroups_path)
        options = _with_owner(options, spec)
        command = Command(self.children, options, self.namespace, creation.id)
        container = RuncContainer(self.children, command, creation, self.held, cgroup)
        await container.create()
        return container


class _RuncProcess(Process):
    """What init and execs have in common."""

    def __init__(
        self,
        children: Children,
        command: Command,
        directory: str,
        streams: Streams,
        held: Held,
        kills: OomKills,
    ) -> None:
        self._children = children
        self._held = held
        self._kills = kills
        self._command = command
        self._bundle = directory
        self._streams = streams
        self._stdio: Stdio | None = None
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    def listen(self, hear: Hear) -> None:
        assert self._child, "there is no process to listen to yet"

        def hear_exit(exited: Exited) -> None:
            self._kills.look()  # a kill is told before the exit that it caused
            hear(exited)

        self._child.listen(hear_exit)

    def close_stdin(self) -> None:
        if self._stdio:
            self._stdio.close_stdin()

    def resize(self, width: int, height: int) -> None:
        if self._stdio:
            self._stdio.resize(width, height)

    async def drained(self, limit_s: float) -> None:
        if self._stdio:
            await self._stdio.drained(limit_s)

    async def _run(
        self, prefix: str, arguments: Sequence[str], log: str, pid_file: str
    ) -> None:
        """Run a command that leaves us a process, with the streams of that process."""
        options = self._command.options
        stdio = Stdio.open(
            stdin=self._streams.stdin,
            stdout=self._streams.stdout,
            stderr=self._streams.stderr,
            uid=options.io_uid,
            gid=options.io_gid,
            console_in=self._bundle if self._streams.terminal else "",
            logged=self._logged,
        )
        if stdio.console_path:
            arguments = [*arguments, "--console-socket", stdio.console_path]
        try:
            await stdio.prepare()
            with self._children.expecting(pid_file) as claim:
                try:
                    await self._command.attached(
                        prefix, arguments, log, stdio.child, self._bundle
                    )
                    child = _claimed(claim, prefix)
                    stdio.close_child_ends()
                    stdio.start()
                except BaseException:
                    _kill_leftover(claim)
                    raise
        except BaseException:
            stdio.close()
            await stdio.ended(0)
            raise
        self._child, self._stdio = child, stdio
        child.listen(lambda _: stdio.process_ended())

    @property
    def _logged(self) -> Logged:
        """What a logger is to know of the process."""
        command = self._command
        return Logged(self._children, command.namespace, command.id, command.id)

    def _let_go_of_stdio(self) -> None:
        if self._stdio:
            self._held.keep(self._stdio, self._command.id)
            self._stdio = None


class RuncContainer(_RuncProcess, Container):
    """A container and its init."""

    def __init__(
        self,
        children: Children,
        command: Command,
        creation: Creation,
        held: Held,
        cgroup: traces.Future,
    ) -> None:
        streams = creation.streams
        super().__init__(children, command, creation.bundle, streams, held, OomKills())
        self._creation = creation
        self._cgroup = cgroup
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
        return _RuncExec(
            *(self._children, self._command, self._bundle, streams, self._held),
            self._kills,
            exec_id=exec_id,
            document=document,
        )


class _RuncExec(_RuncProcess):
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


def _spec(directory: str) -> Spec:
    """Return what config.json says; nothing, where a runtime is to judge it.

    Raises:
        InvalidArgument: a runtime would wait for it, or never come to its end.
    """
    path = f"{directory}/{bundle.CONFIG}"
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InvalidArgument(f"{path} is not a regular file")
    try:
        return Spec.parse(bundle.read_config(directory))
    except (OSError, InvalidArgument):
        return Spec()


def _with_owner(options: Options, spec: Spec) -> Options:
    """Return options whose owner of the streams, if they name none, is the spec's.

    In a user namespace that is the container's root: who it does not know, nobody in it
    can open /dev/stdout of.
    """
    if options.io_uid or options.io_gid:
        return options
    return dataclasses.replace(options, io_uid=spec.root_uid, io_gid=spec.root_gid)


def _claimed(claim: Claim, prefix: str) -> Child:
    try:
        return claim.child()
    except (OSError, ValueError) as error:
        raise Unknown(f"{prefix}: the runtime left no pid: {error}") from error


def _kill_leftover(claim: Claim) -> None:
    """End the process that a runtime had made before it failed or was killed."""
    with contextlib.suppress(OSError, ValueError):
        claim.child().kill(signal.SIGKILL)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
