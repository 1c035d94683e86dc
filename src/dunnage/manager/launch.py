"""Running a shim's binary: `start`, `delete`, and the log that it writes.

Owns: which binary a runtime's name means, and with which argv, environment, directory
and stdin it is called.
Must not know: the Task service.

We speak the dialect that every shim understands (an ``Any`` of options in), and
understand every answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
import sysconfig
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dunnage.bootstrap import bundle as files
from dunnage.bootstrap import endpoint, wire
from dunnage.bootstrap.flags import Flags
from dunnage.errors import DeadlineExceeded, DunnageError, InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dunnage.bootstrap.endpoint import Endpoint

    from .bundles import Bundle
    from .places import Places

_log: Final = logging.getLogger("dunnage.manager")

# The daemon gives `start` as long as its client does; ours has no other limit.
_START_LIMIT_S: Final = 60.0
# containerd: io.containerd.timeout.shim.cleanup.
_DELETE_LIMIT_S: Final = 5.0
_LOG_READ_BYTES: Final = 64 << 10


def find_binary(runtime: str) -> Path:
    """Return the binary of a runtime: a path, or a name like ``io.containerd.runc.v2``.

    A name is looked for on PATH, then where our own scripts are installed.

    Raises:
        InvalidArgument: it is neither a name nor an absolute path.
        NotFound: there is no such binary.
    """
    if os.path.isabs(runtime):
        if not os.access(runtime, os.X_OK) or os.path.isdir(runtime):
            raise NotFound(f"runtime {runtime!r}: no executable file there")
        return Path(runtime)
    parts = runtime.split(".")
    if "/" in runtime or len(parts) < 2 or not all(parts):
        raise InvalidArgument(
            f"invalid runtime name {runtime}, should be an absolute path or a name "
            "like io.containerd.runc.v2"
        )
    name = f"containerd-shim-{parts[-2]}-{parts[-1]}"
    beside_us = sysconfig.get_path("scripts")
    found = shutil.which(name) or shutil.which(name, path=beside_us)
    if found is None:
        raise NotFound(f'runtime "{runtime}": no {name} on PATH nor in {beside_us}')
    return Path(found).absolute()


@dataclass(frozen=True, slots=True)
class Shim:
    """A shim's binary, as it is called for one namespace."""

    binary: Path
    places: Places
    debug: bool = False

    @classmethod
    def of(cls, bundle: Bundle, places: Places, *, debug: bool = False) -> Shim:
        """Return the shim that a bundle was started with.

        Raises:
            NotFound: the bundle does not say.
        """
        path = files.read(str(bundle.path), files.SHIM_BINARY_PATH)
        if not path:
            raise NotFound(f"task {bundle.id}: the binary of its shim")
        return cls(Path(path), places, debug)

    async def start(self, bundle: Bundle, options: wire.Options | None) -> Endpoint:
        """Start a shim for a bundle; return where it listens.

        There must be a reader of its log (see `reading_log`), or it waits for one.
        Cancelling it kills the helper, not a shim that it has started.

        Raises:
            DunnageError: it said no, in its own words.
        """
        # First: whoever comes after a crash of ours knows whom to ask for a clean-up.
        files.write(str(bundle.path), files.SHIM_BINARY_PATH, str(self.binary))
        told = wire.Start(options=options)
        stdin = wire.render_start(told, id=bundle.id, namespace=self.places.namespace)
        status, said, _ = await self._call(
            bundle, "start", stdin, limit_s=_START_LIMIT_S, combined=True
        )
        if status:
            text = said.decode("utf-8", "replace").strip()
            raise DunnageError(f"failed to start shim: {text}: {_ended(status)}")
        found = wire.parse_answer(said)
        endpoint.write(str(bundle.path), found)
        return found

    async def delete(self, bundle: Bundle) -> wire.Deleted:
        """Have the binary clean up what a shim, running or not, has left.

        Cancelling it kills the binary; it can be called again.

        Raises:
            DunnageError: it failed or did not end in time.
        """
        status, said, complaints = await self._call(
            bundle, "delete", b"", limit_s=_DELETE_LIMIT_S, combined=False
        )
        text = complaints.decode("utf-8", "replace").strip()
        if status:
            raise DunnageError(f"failed to delete shim: {text}: {_ended(status)}")
        if text:
            _log.debug("%s delete: %s", self.binary.name, text)
        return wire.parse_deleted(said)

    async def _call(
        self,
        bundle: Bundle,
        action: str,
        stdin: bytes,
        *,
        limit_s: float,
        combined: bool,
    ) -> tuple[int, bytes, bytes]:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                self.binary,
                *self._flags(bundle, action).argv(),
                stdin=pipe,
                stdout=pipe,
                stderr=asyncio.subprocess.STDOUT if combined else pipe,
                cwd=bundle.path,
                env=self._environment(),
                process_group=0,
            )
        except OSError as error:
            raise DunnageError(f"cannot run {self.binary}: {error.strerror}") from error
        try:
            async with asyncio.timeout(limit_s):
                said, complaints = await process.communicate(stdin)
        except TimeoutError:
            text = f"{self.binary.name} {action}: no end after {limit_s:g} s"
            raise DeadlineExceeded(text) from None
        finally:
            # Only if we gave up: a shim may well be in the group of its helper.
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                # Killed for good: only the kernel is waited for.
                await process.wait()
        assert process.returncode is not None
        return process.returncode, said, complaints or b""

    def _flags(self, bundle: Bundle, action: str) -> Flags:
        return Flags(
            namespace=self.places.namespace,
            address=self.places.address,
            id=bundle.id,
            bundle=str(bundle.path) if action == "delete" else "",
            debug=self.debug,
            action=action,
        )

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "GOMAXPROCS": "2",
            "GRPC_ADDRESS": self.places.address,
            "MAX_SHIM_VERSION": "2",
            "NAMESPACE": self.places.namespace,
            "TTRPC_ADDRESS": self.places.events_socket,
        }


@contextmanager
def reading_log(bundle: Bundle, *, debug: bool = False) -> Iterator[None]:
    """Read a shim's log while the block runs: to our stderr if ``debug``, else away.

    A shim opens its log when it starts and waits for a reader; one that stays is never
    blocked by a full fifo, and one that leaves costs it only what it would have said.
    """
    path = bundle.path / files.LOG
    with suppress(FileExistsError):
        os.mkfifo(path, 0o700)
    # For writing too: or each writer that goes would be an end of file.
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, _copy_log, fd, debug)
    try:
        yield
    finally:
        _copy_log(fd, debug)
        loop.remove_reader(fd)
        os.close(fd)


def _copy_log(fd: int, debug: bool) -> None:  # noqa: FBT001 - a callback of the loop
    try:
        data = os.read(fd, _LOG_READ_BYTES)
    except BlockingIOError:
        return
    if debug:
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()


def _ended(status: int) -> str:
    if status < 0:
        return f"signal: {signal.Signals(-status).name}"
    return f"exit status {status}"
