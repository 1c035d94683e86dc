"""The fifos of one process, copied to and from our own descriptors.

Owns: the fifos and their directory.
Must not know: whose process it is.

Our own descriptors are shared with whoever started us, so their flags are left alone:
a write is at most as long as a pipe takes without blocking, once it is ready.

Invariant (reader-gone): when nobody reads our output any more, the container's is read
    on and dropped; it is not the container's fault.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import shutil
import tempfile
from typing import TYPE_CHECKING, Final, Self

from dunnage.manager.client import Stdio
from dunnage.manager.places import make_passage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

_log: Final = logging.getLogger("dunnage.cli")

_QUIETLY: Final = os.O_NONBLOCK | os.O_CLOEXEC
_READ_BYTES: Final = 64 << 10
# Not held up by more than this much silence of whoever keeps an output open.
_QUIET_S: Final = 2.0


class Streams:
    """Use it as a context manager; `begin` when the process exists.

    Args:
        parent: Where the directory of the fifos is made.
        stdin_fd: What to copy from; None for no stdin.
        stdout_fd: Where the output goes.
        stderr_fd: Likewise; None for none, as a terminal has but one output.
    """

    def __init__(
        self,
        parent: Path,
        *,
        stdin_fd: int | None,
        stdout_fd: int = 1,
        stderr_fd: int | None = 2,
    ) -> None:
        self._parent = parent
        self._stdin_fd = stdin_fd
        self._output_fds = {"stdout": stdout_fd}
        if stderr_fd is not None:
            self._output_fds["stderr"] = stderr_fd
        self._directory = ""
        self._outputs: list[_Copy] = []
        self._input: _Copy | None = None
        self.stdio = Stdio()

    def __enter__(self) -> Self:
        """Make the fifos and begin to read the outputs."""
        make_passage(self._parent)
        self._directory = tempfile.mkdtemp(dir=self._parent)
        try:
            for name, sink in self._output_fds.items():
                # Without a writer so far, it is not readable until there was one.
                source = os.open(self._make(name), os.O_RDONLY | _QUIETLY)
                self._outputs.append(_Copy(source, sink, owned=source))
            if self._stdin_fd is not None:
                # For reading too, so that it opens at once.
                sink = os.open(self._make("stdin"), os.O_RDWR | _QUIETLY)
                self._input = _Copy(self._stdin_fd, sink, owned=sink)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.stdio = Stdio(
            stdin=self._path("stdin") if self._input else "",
            stdout=self._path("stdout"),
            stderr=self._path("stderr") if "stderr" in self._output_fds else "",
            terminal="stderr" not in self._output_fds,
        )
        for output in self._outputs:
            output.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the fifos."""
        for copy in self._copies():
            copy.end()
        shutil.rmtree(self._directory, ignore_errors=True)

    def begin_input(self, on_end: Callable[[], None]) -> None:
        """Begin to copy stdin, if there is one; ``on_end`` is called after its end."""
        if self._input is not None:
            self._input.done.add_done_callback(lambda _: on_end())
            self._input.begin()

    async def drained(self) -> None:
        """Wait until the outputs have ended, or nothing has come for a while.

        Cancelling it stops the wait only.
        """
        if self._input is not None:
            self._input.end()
        waits = [output.done for output in self._outputs]
        before = -1
        while before != (now := sum(output.moves for output in self._outputs)):
            before = now
            _, open_ = await asyncio.wait(waits, timeout=_QUIET_S)
            if not open_:
                return
            if any(output.is_held_up for output in self._outputs):
                before = -1

    def _copies(self) -> list[_Copy]:
        return [*self._outputs, *([self._input] if self._input else [])]

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _make(self, name: str) -> str:
        path = self._path(name)
        os.mkfifo(path, 0o700)
        return path


class _Copy:
    """Moves bytes from one descriptor to another until the first one ends."""

    def __init__(self, source: int, sink: int, *, owned: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._owned = owned
        self._pending = b""
        self._is_dropping = False
        self.moves = 0
        self.done: asyncio.Future[None] = self._loop.create_future()

    @property
    def is_held_up(self) -> bool:
        """Whether it is the sink that is waited for."""
        return bool(self._pending)

    def begin(self) -> None:
        try:
            self._loop.add_reader(self._source, self._read)
        except PermissionError:
            # A file: always ready, and not for epoll.
            self._loop.call_soon(self._read)

    def end(self) -> None:
        """Stop; close the descriptor that is ours."""
        if self.done.done():
            return
        self.done.set_result(None)
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        os.close(self._owned)

    def _read(self) -> None:
        if self.done.done():
            return
        try:
            self._pending = os.read(self._source, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # A terminal that hung up, or a descriptor that never was: an end, too.
            self._pending = b""
        if not self._pending:
            self.end()
            return
        self.moves += 1
        if self._is_dropping:
            self._pending = b""
            self.begin()
            return
        self._loop.remove_reader(self._source)
        try:
            self._loop.add_writer(self._sink, self._write)
        except PermissionError:
            self._write_file()

    def _write(self) -> None:
        try:
            count = os.write(self._sink, self._pending[: select.PIPE_BUF])
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(error)
            return
        self._pending = self._pending[count:]
        if not self._pending:
            self._loop.remove_writer(self._sink)
            self.begin()

    def _write_file(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._sink, self._pending) :]
        except OSError as error:
            self._drop(error)
            return
        self.begin()

    def _drop(self, error: OSError) -> None:
        """Go on without the sink."""
        if error.errno != errno.EPIPE:
            _log.warning("output is lost: %s", error.strerror)
        self._pending = b""
        self._is_dropping = True
        self._loop.remove_writer(self._sink)
        self.begin()
