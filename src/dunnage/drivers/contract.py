"""What a runtime author implements, and what the shim may expect of it.

A driver runs containers; the shim decides when, says the events, and keeps the order.
Nothing here knows the wire.

The calls of one process (init or exec) never overlap, except `Process.kill`, which may
come at any time after creation, and `Container.resume` after the exit of init.
Each may take long, and is not cancelled when its caller goes away; cancelled for good,
at the end of the shim, it kills what it runs.
A failure is a `dunnage.errors.DunnageError`, whose text reaches the user, or an
OSError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dunnage.host.cgroups import Stats
from dunnage.host.mounts import Mount
from dunnage.host.procs import Exited


@dataclass(frozen=True, slots=True)
class OomKilled:
    """The container's cgroup killed something for want of memory."""


Happening: TypeAlias = OomKilled | Exited
Hear: TypeAlias = Callable[[Happening], None]


@dataclass(frozen=True, slots=True)
class Streams:
    """Where a process's streams go: paths or URIs as requested, empty for none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    """A terminal is its stdin, stdout and stderr; what it says goes to ``stdout``."""


@dataclass(frozen=True, slots=True)
class Creation:
    """All that a container is created from."""

    id: str
    bundle: str
    """Absolute; the spec is its config.json."""
    rootfs: Sequence[Mount] = ()
    """To be mounted on ``<bundle>/rootfs``; none: the root is somebody else's care."""
    streams: Streams = Streams()
    checkpoint: str = ""
    """Absolute; the directory of an image to restore from, at the start of init."""
    parent_checkpoint: str = ""
    """That of the image which this one adds to, if it does not say so itself."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that is asked for, in the words of ``containerd.runc.v1``."""

    path: str
    """Absolute; the directory that the image goes to, made if it is missing."""
    exit: bool = False
    """End the container once the image is written."""
    open_tcp: bool = False
    external_unix_sockets: bool = False
    terminal: bool = False
    file_locks: bool = False
    empty_namespaces: tuple[str, ...] = ()
    cgroups_mode: str = ""
    work_path: str = ""
    """Absolute; where logs go, and stay. Empty: nothing of them stays."""
    parent_path: str = ""
    """The image that this one is to add to: absolute, or relative to ``path``."""


class Process(ABC):
    """One process of a container."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The pid as the host sees it; 0 as long as there is none."""

    @abstractmethod
    def listen(self, hear: Hear) -> None:
        """Call ``hear`` with what happens to the process, in order, synchronously.

        Zero or more `OomKilled`, then one `Exited`.
        A kill in its container is told to init's listener, before any exit it caused.
        Valid once there is a pid.
        What happened before is kept and comes first, during this call.
        """

    @abstractmethod
    async def start(self) -> None:
        """Start it; afterwards there is a pid. Called once at the most.

        Of an init that is restored it is called again after a failure, which has left
        nothing behind.
        """

    @abstractmethod
    async def kill(self, signum: int, *, everything: bool = False) -> None:
        """Send a signal; to all processes of the container if ``everything``.

        Raises:
            NotFound: the process has finished.
        """

    @abstractmethod
    def close_stdin(self) -> None:
        """End its stdin as soon as no client holds it either; idempotent."""

    @abstractmethod
    def resize(self, width: int, height: int) -> None:
        """Set the size of its terminal; without one, or too late, it does nothing."""

    @abstractmethod
    async def drained(self, limit_s: float) -> None:
        """Wait for its output to be read: while bytes move, ``limit_s`` at the most."""

    @abstractmethod
    async def delete(self) -> None:
        """Remove it from the runtime; one that was created and not started is killed.

        Afterwards its exit, if it ever lived, comes to the listener.
        Valid when it is not running; repeated after a failure.
        """

    @abstractmethod
    async def release(self) -> None:
        """Give back what it held: streams, mounts, files. Follows `delete`.

        Output that was not read is held nevertheless, apart from the container.
        """


class Container(Process):
    """A container: its init, and what there is but once."""

    init_is_outlived: bool
    """Whether its other processes may outlive its init, as they have no pid namespace
    that ends with it (containerd's rule: runc/util.go, ShouldKillAllOnExit)."""

    @abstractmethod
    def add_exec(self, exec_id: str, spec: bytes, streams: Streams) -> Process:
        """Describe a further process from an OCI process in JSON; run nothing yet.

        Raises:
            DunnageError: the spec makes no sense.
        """

    @abstractmethod
    async def pause(self) -> None:
        """Freeze all its processes.

        Who is killed by `Process.kill` while frozen dies nevertheless; of an exec that
        may wait for `resume`.
        """

    @abstractmethod
    async def resume(self) -> None:
        """Thaw them; also valid when init has died frozen, for the sake of the others.

        Raises:
            DunnageError: it is not frozen, too.
        """

    @abstractmethod
    async def checkpoint(self, wanted: Checkpoint) -> None:
        """Write an image of all its processes, running or frozen.

        They go on as they were, or end at once if ``wanted`` says so; after a failure
        they go on, and nothing of the image is left.
        """

    @abstractmethod
    async def pids(self) -> list[int]:
        """List the pids of all processes in the container."""

    @abstractmethod
    async def stats(self) -> Stats:
        """Tell what it uses; others have their turn meanwhile.

        Raises:
            NotFound: it has no cgroup, or none any more.
        """

    @abstractmethod
    async def update(self, resources: bytes) -> None:
        """Change its limits, given as an OCI LinuxResources in JSON.

        Raises:
            DunnageError: they make no sense.
        """


class Driver(ABC):
    """Makes containers."""

    @abstractmethod
    async def create(self, creation: Creation) -> Container:
        """Create a container whose init waits to be started, and has a pid.

        One that is to be restored is not there before its start, and has none.
        A failure leaves nothing behind.
        """
