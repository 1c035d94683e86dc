"""The Task service: each RPC brings a request, the machine and the driver together.

Invariant (finishes-what-it-begins): an operation begun ends in commit or rollback,
whatever becomes of its request; its work is a task of the service's own.

No call waits for another container's: locks are per process, and the machine is never
held across an await.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from dunnage.api import task_v2_pb2 as pb
from dunnage.api import typeurl
from dunnage.api.runc_options_pb2 import ProcessDetails
from dunnage.api.services import TaskMethods
from dunnage.api.times import timestamp
from dunnage.bootstrap import bundle, identifiers
from dunnage.descriptors import Empty
from dunnage.drivers.contract import (
    Checkpoint,
    Container,
    Creation,
    Driver,
)
from dunnage.drivers.runc import Options
from dunnage.errors import (
    AlreadyExists,
    DunnageError,
    NotFound,
    Unavailable,
    Unknown,
)
from dunnage.task.events import Event
from dunnage.task.machine import INIT
from dunnage.task.states import Operation, Status
from dunnage.ttrpc.aio.server import Context, Server

from . import translate
from .calls import Calls
from .deaths import Deaths
from .entry import Entry
from .expected import Expected
from .join import COMING

_log = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_LIMIT_S: Final = 10.0
"""How long Delete waits for output that still moves (containerd since 1.7.29)."""
_EXIT_LIMIT_S: Final = 10.0
"""How long Delete waits for the exit of what the runtime says it has killed."""


def _nothing() -> None:
    """Do nothing."""


class Drivers(Protocol):
    """Gives the driver for a container's options."""

    def __call__(self, options: Options) -> Driver:
        """Return the driver."""
        ...


class TaskService:
    """The containers of one shim, and what may be asked of them.

    Args:
        drivers: gives the driver for a container's options.
        emit: takes each event, synchronously.
        leave: asked by Shutdown when nobody owns the shim; returns when the answer
            may go out.
        expected: the containers that are on their way.
        stir: told whenever something has happened.

    Attributes:
        calls: what is under way.
        has_had_task: whether there ever was a task.
    """

    def __init__(
        self,
        drivers: Drivers,
        emit: Callable[[Event], None],
        leave: Callable[[], Coroutine[None, None, None]],
        expected: Expected,
        stir: Callable[[], None] = _nothing,
    ) -> None:
        self.calls = Calls(stir)
        self.has_had_task = False
        self._drivers = drivers
        self._emit = emit
        self._leave = leave
        self._expected = expected
        self._is_leaving = False
        self._reading = asyncio.Lock()
        self._entries: dict[str, Entry] = {}
        self._work: set[asyncio.Task[Any]] = set()
        self._deaths = Deaths(self._start_work)

    def register(self, server: Server, methods: TaskMethods) -> None:
        """Offer the service; a method that is not offered answers unimplemented."""
        self.calls.register(server, methods.create, self.create)
        self.calls.register(server, methods.start, self.start)
        self.calls.register(server, methods.delete, self.delete)
        self.calls.register(server, methods.exec, self.exec)
        self.calls.register(server, methods.kill, self.kill)
        self.calls.register(server, methods.pause, self.pause)
        self.calls.register(server, methods.resume, self.resume)
        self.calls.register(server, methods.checkpoint, self.checkpoint)
        self.calls.register(server, methods.wait, self.wait)
        self.calls.register_sync(server, methods.state, self.state)
        self.calls.register(server, methods.pids, self.pids)
        self.calls.register(server, methods.stats, self.stats)
        self.calls.register(server, methods.update, self.update)
        self.calls.register(server, methods.close_io, self.close_io)
        self.calls.register(server, methods.resize_pty, self.resize_pty)
        self.calls.register_sync(server, methods.connect, self.connect)
        self.calls.register(server, methods.shutdown, self.shutdown)

    @property
    def is_owned(self) -> bool:
        """Whether there is a container, created or being created."""
        return bool(self._entries)

    def admit_nobody(self) -> None:
        """Refuse containers from now on: the shim leaves."""
        self._is_leaving = True

    @property
    def entries(self) -> list[Entry]:
        """The containers, created or being created."""
        return list(self._entries.values())

    @property
    def is_working(self) -> bool:
        """Whether an operation is in flight."""
        return bool(self._work)

    async def settled(self) -> None:
        """Wait until no operation is in flight."""
        while self._work:
            await asyncio.wait(self._work)

    # -- the calls

    async def create(
        self, request: pb.CreateTaskRequest, _: Context
    ) -> pb.CreateTaskResponse:
        """Create a container and its task."""
        identifiers.validate("container id", request.id)
        creation = translate.creation(request)
        options = translate.options(request.options, request.bundle)
        if request.id in self._entries:
            raise AlreadyExists(f"container {request.id}")
        self._refuse_if_leaving()
        entry = Entry(translate.task_create(request), self._emit)
        self._entries[request.id] = entry
        self._expected.come(request.id)
        return await self._finish(entry, self._create(entry, creation, options))

    async def _create(
        self, entry: Entry, creation: Creation, options: Options
    ) -> pb.CreateTaskResponse:
        try:
            # What became of an earlier container in this bundle is not this one's.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{creation.bundle}/{bundle.EXIT}")
            with entry.task.creating() as creating:
                container = await self._drivers(options).create(creation)
                entry.container = container
                entry.streams[INIT] = creation.streams
                creating.commit(container.pid)
                self.has_had_task = True
                if container.pid:
                    self._deaths.listen(entry, INIT, container)
        except BaseException:
            del self._entries[creation.id]
            raise
        return pb.CreateTaskResponse(pid=container.pid)

    async def start(self, request: pb.StartRequest, _: Context) -> pb.StartResponse:
        """Start init or an exec."""
        entry = self._entry(request.id)
        return await self._finish(entry, self._start(entry, request.exec_id))

    async def _start(self, entry: Entry, exec_id: str) -> pb.StartResponse:
        async with entry.turn(exec_id):
            try:
                with entry.task.starting(exec_id) as starting:
                    process = entry.process(exec_id)
                    is_new = not process.pid
                    async with entry.starting(exec_id):
                        await process.start()
                    starting.commit(process.pid)
                    if is_new:
                        self._deaths.listen(entry, exec_id, process)
            except BaseException:
                if exec_id in entry.task.exec_ids and entry.task.is_over(exec_id):
                    entry.never_lived(exec_id)
                raise
            if entry.task.init_is_dead and exec_id and entry.task.is_running(exec_id):
                # Too late for the kill that followed init's death: it would live on
                # in a shared pid namespace, and withhold init's exit as long.
                self._deaths.end_the_others(entry)
        return pb.StartResponse(pid=process.pid)

    async def delete(self, request: pb.DeleteRequest, _: Context) -> pb.DeleteResponse:
        """Remove an exec, or the task with its container."""
        entry = self._entry(request.id)
        if request.exec_id:
            return await self._finish(entry, self._delete_exec(entry, request.exec_id))
        return await self._finish(entry, self._delete_task(entry))

    async def _delete_exec(self, entry: Entry, exec_id: str) -> pb.DeleteResponse:
        async with entry.turn(exec_id):
            with entry.task.deleting(exec_id) as deleting:
                process = entry.process(exec_id)
                await entry.kills_answered(exec_id)
                await process.drained(DRAIN_LIMIT_S)
                await process.delete()
                await process.release()
                response = _deleted(entry, exec_id)
                deleting.commit()
            entry.forget(exec_id)
        return response

    async def _delete_task(self, entry: Entry) -> pb.DeleteResponse:
        async with entry.turn(INIT):
            await entry.execs_quiet()
            with entry.task.deleting() as deleting:
                container = entry.process(INIT)
                if entry.task.init_is_dead:
                    await container.drained(DRAIN_LIMIT_S)
                if entry.killing:
                    await entry.killing
                await entry.kills_answered(INIT)
                await container.delete()
                if container.pid:
                    await _exit_of_the_deleted(entry)
                for process in entry.execs.values():
                    await process.delete()
                    await process.release()
                await container.release()
                response = _deleted(entry, INIT)
                deleting.commit()
            del self._entries[entry.id]
        return response

    async def exec(self, request: pb.ExecProcessRequest, _: Context) -> Empty:
        """Add an exec; nothing runs before its start."""
        entry = self._entry(request.id)
        exec_id = request.exec_id
        identifiers.validate("exec id", exec_id)
        streams = translate.streams(request)
        with entry.task.adding(exec_id) as adding:
            assert entry.container, "a task that admits an exec has its container"
            process = entry.container.add_exec(exec_id, request.spec.value, streams)
            entry.add(exec_id, process, streams)
            adding.commit()
        return Empty()

    async def kill(self, request: pb.KillRequest, _: Context) -> Empty:
        """Send a signal to init, an exec, or all there is."""
        entry = self._entry(request.id)
        entry.task.check(Operation.KILL, request.exec_id)
        process = entry.process(request.exec_id)
        with entry.kill_in_flight(request.exec_id):
            work = process.kill(request.signal, everything=request.all)
            await self._finish(entry, work)
        return Empty()

    async def pause(self, request: pb.PauseRequest, _: Context) -> Empty:
        """Freeze a container."""
        entry = self._entry(request.id)
        return await self._finish(entry, self._pause(entry))

    async def _pause(self, entry: Entry) -> Empty:
        async with entry.turn(INIT):
            with entry.task.pausing() as pausing:
                await _container(entry).pause()
                pausing.commit()
        if entry.task.init_is_dead:
            self._deaths.end_the_others(entry, frozen=True)
        return Empty()

    async def resume(self, request: pb.ResumeRequest, _: Context) -> Empty:
        """Thaw a container."""
        entry = self._entry(request.id)
        return await self._finish(entry, self._resume(entry))

    async def _resume(self, entry: Entry) -> Empty:
        async with entry.turn(INIT):
            with entry.task.resuming() as resuming:
                await _container(entry).resume()
                resuming.commit()
        return Empty()

    async def checkpoint(self, request: pb.CheckpointTaskRequest, _: Context) -> Empty:
        """Write an image of a container, which goes on or ends."""
        entry = self._entry(request.id)
        wanted = translate.checkpoint(request)
        return await self._finish(entry, self._checkpoint(entry, wanted))

    async def _checkpoint(self, entry: Entry, wanted: Checkpoint) -> Empty:
        async with entry.turn(INIT):
            with entry.task.checkpointing(wanted.path) as checkpointing:
                await _container(entry).checkpoint(wanted)
                checkpointing.commit()
        return Empty()

    async def wait(self, request: pb.WaitRequest, _: Context) -> pb.WaitResponse:
        """Wait for the exit to be said; ends with its connection, too."""
        entry = self._entry(request.id)
        status, at_ns = await entry.exit_said(request.exec_id) or (0, None)
        return pb.WaitResponse(exit_status=status, exited_at=timestamp(at_ns))

    def state(self, request: pb.StateRequest, _: Context) -> pb.StateResponse:
        """Describe a process, from memory only: it answers at any time."""
        entry = self._entry(request.id)
        exec_id = request.exec_id
        snapshot = entry.task.snapshot(exec_id)
        streams = entry.streams[exec_id]
        status, at_ns = snapshot.exit or (0, None)
        return pb.StateResponse(
            id=exec_id or entry.id,
            bundle=entry.bundle,
            pid=snapshot.pid,
            status=translate.status(snapshot.status),
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            terminal=streams.terminal,
            exit_status=status,
            exited_at=timestamp(at_ns),
        )

    async def pids(self, request: pb.PidsRequest, _: Context) -> pb.PidsResponse:
        """List the processes of a container; those of execs are named.

        Of a stopped task its init is told, as by `state`: a daemon that comes back
        takes a shim without any process for leaked, and its exit would be lost
        (containerd 1.7 and later, ``core/runtime/v2/shim_load.go``).
        """
        entry = self._entry(request.id)
        try:
            pids = await self._finish(entry, _container(entry).pids())
        except DunnageError:  # some runtimes say so of a container that has stopped
            if not entry.task.init_is_dead:
                raise
            pids = []
        if not pids and entry.task.init_is_dead:
            pids = [_container(entry).pid]
        execs = {
            process.pid: exec_id
            for exec_id, process in entry.execs.items()
            if entry.task.is_running(exec_id)
        }
        response = pb.PidsResponse()
        for pid in pids:
            info = response.processes.add(pid=pid)
            if pid in execs:
                details = ProcessDetails(exec_id=execs[pid])
                info.info.CopyFrom(typeurl.pack(details))
        return response

    async def stats(self, request: pb.StatsRequest, _: Context) -> pb.StatsResponse:
        """Tell what a container uses.

        One at a time: of many that take turns with others, each turn would be long.
        """
        entry = self._entry(request.id)
        async with self._reading:
            stats = await _container(entry).stats()
        return pb.StatsResponse(stats=translate.metrics(stats))

    async def update(self, request: pb.UpdateTaskRequest, _: Context) -> Empty:
        """Change the limits of a container; nothing given changes nothing."""
        entry = self._entry(request.id)
        return await self._finish(entry, self._update(entry, request.resources.value))

    async def _update(self, entry: Entry, resources: bytes) -> Empty:
        async with entry.turn(INIT):
            entry.task.check(Operation.UPDATE)
            if resources:
                await _container(entry).update(resources)
        return Empty()

    async def close_io(self, request: pb.CloseIORequest, _: Context) -> Empty:
        """Let stdin end when its clients have closed it."""
        self._entry(request.id).process(request.exec_id).close_stdin()
        return Empty()

    async def resize_pty(self, request: pb.ResizePtyRequest, _: Context) -> Empty:
        """Set the size of a terminal; a process without one does not mind."""
        entry = self._entry(request.id)
        entry.task.check(Operation.RESIZE, request.exec_id)
        entry.process(request.exec_id).resize(request.width, request.height)
        return Empty()

    def connect(
        self, request: pb.ConnectRequest, context: Context
    ) -> pb.ConnectResponse:
        """Say who we are; fails only for a `start` that joins a shim that leaves."""
        if COMING in context.metadata:
            self._refuse_if_leaving()
            identifiers.validate("container id", request.id)
            self._expected.add(request.id)
        entry = self._entries.get(request.id)
        pid = entry.container.pid if entry and entry.container else 0
        return pb.ConnectResponse(shim_pid=os.getpid(), task_pid=pid)

    async def shutdown(self, request: pb.ShutdownRequest, _: Context) -> Empty:
        """Leave, unless there is a container or one is coming; ``now`` changes nothing.

        The id says only who is not coming any more.
        """
        self._expected.withdraw(request.id)
        if self.is_owned:
            return Empty()
        if self._expected.anybody():
            # Should it never come, nobody would ask again.
            self._expected.when_nobody(self._leave_unless_owned)
        else:
            await self._leave()
        return Empty()

    def _leave_unless_owned(self) -> None:
        if not self.is_owned:
            _ = self._start_work(self._leave())

    def _refuse_if_leaving(self) -> None:
        if self._is_leaving:
            raise Unavailable("the shim is shutting down")

    # -- small change

    def _entry(self, container_id: str) -> Entry:
        entry = self._entries.get(container_id)
        if entry is None or entry.task.snapshot().status is Status.UNKNOWN:
            raise NotFound("container not created")
        return entry

    def _start_work(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self.calls.track(task, getattr(work, "__name__", ""))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _finish(self, entry: Entry, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` to its end, also when who asked for it goes away."""
        task = self._start_work(work)
        try:
            return await asyncio.shield(task)
        except OSError as error:
            raise translate.os_error(error) from error
        except asyncio.CancelledError:
            task.add_done_callback(partial(_log_failure, entry.id))
            raise
        finally:
            # An error's traceback leads here: it, and the request with it, would wait
            # for the collector.
            del task


def _container(entry: Entry) -> Container:
    assert entry.container, "a registered task has its container"
    return entry.container


def _deleted(entry: Entry, exec_id: str) -> pb.DeleteResponse:
    snapshot = entry.task.snapshot(exec_id)
    status, at_ns = snapshot.exit or (0, None)
    return pb.DeleteResponse(
        pid=snapshot.pid, exit_status=status, exited_at=timestamp(at_ns)
    )


async def _exit_of_the_deleted(entry: Entry) -> None:
    try:
        async with asyncio.timeout(_EXIT_LIMIT_S):
            await entry.exit_said(INIT)
    except TimeoutError:
        raise Unknown(
            "failed to delete task: the runtime has deleted it, "
            "but its processes have not ended"
        ) from None


def _log_failure(container_id: str, task: asyncio.Task[Any]) -> None:
    """Log the failure of work whose requester is gone."""
    if not task.cancelled() and (error := task.exception()):
        text = "an operation whose caller left has failed: %s"
        _log.error(text, error, extra={"container": container_id})
