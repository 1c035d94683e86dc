"""The three streams of one process.

Owns: which descriptors the process gets, when copying ends, and what Delete waits for.
Must not know: which process it is, and how it is run.

Invariant (stdio-survives): a reader that is gone or slow neither kills nor blocks us,
nor loses output within what the fifo and the pipe before it hold; beyond that the
process waits for its reader.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from dunnage.errors import DunnageError, Unimplemented

from .fd import Fd, pipe
from .fifo import FifoSink, FifoSource, reason
from .pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable

_LATER_SCHEMES: Final = frozenset({"file", "binary", "binary-v2"})
_LOOKS: Final = 8  # how often, in a time without progress, to look for some


class Output:
    """One output: the process's pipe, the pump, and the sink of the client."""

    def __init__(
        self, source: Fd, child: Fd, sink: FifoSink, on_over: Callable[[], None]
    ) -> None:
        self.child = child
        self.is_over = False
        self._source = source
        self._sink = sink
        self._on_over = on_over
        self._pump = Pump(source.number, sink.fd.number, self._source_ended)

    @classmethod
    def open(cls, uri: str, on_over: Callable[[], None]) -> Output:
        """Open the sink that ``uri`` names and make the pipe to it."""
        sink = _open_sink(uri)
        try:
            source, child = pipe()
        except OSError:
            sink.close()
            raise
        os.set_blocking(source.number, False)
        return cls(source, child, sink, on_over)

    @property
    def was_read(self) -> bool:
        """Whether it is over, and its reader has it all."""
        return self._sink.was_read

    @property
    def progress(self) -> tuple[int, int]:
        """What changes whenever a byte moves: written by us, not read by the client."""
        return self._pump.moved_bytes, self._sink.unread_bytes

    def start(self) -> None:
        """Begin copying."""
        self._pump.start()

    def close(self) -> None:
        """Give up what is left; idempotent."""
        self._pump.stop()
        self.child.close()
        self._source.close()
        self._sink.close()

    def _source_ended(self) -> None:
        self._source.close()
        self._sink.finish(self._sink_done, wrote=self._pump.moved_bytes > 0)

    def _sink_done(self) -> None:
        self.is_over = True
        self._on_over()


class Input:
    """Stdin: the client's fifo, the pump, and the process's pipe."""

    def __init__(self, source: FifoSource, child: Fd, sink: Fd) -> None:
        self.child = child
        self._source = source
        self._sink = sink
        self._pump = Pump(source.fd.number, sink.number, self.close)

    @classmethod
    def open(cls, path: str) -> Input:
        """Open the client's fifo and make the pipe from it."""
        source = FifoSource.open(path)
        try:
            child, sink = pipe()
        except OSError:
            source.close()
            raise
        os.set_blocking(sink.number, False)
        return cls(source, child, sink)

    def start(self) -> None:
        """Begin copying."""
        self._pump.start()

    def close_stdin(self) -> None:
        """Let the end of the last client's input be the end of the process's."""
        self._source.closer.close()

    def close(self) -> None:
        """End the process's input; idempotent."""
        self._pump.stop()
        self._source.close()
        self._sink.close()
        self.child.close()


class Stdio:
    """The streams of one process, from `open` to `finished` or `close`.

    Open it, give `child` to the process, `close_child_ends`, `start`.
    Output is copied until every holder of the process's ends is gone, whatever becomes
    of the request that began it.
    """

    def __init__(self) -> None:
        self.child: tuple[int, int, int] = (-1, -1, -1)
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._null: Fd | None = None
        self._input: Input | None = None
        self._outputs: dict[str, Output] = {}

    @classmethod
    def open(
        cls,
        *,
        stdin: str = "",
        stdout: str = "",
        stderr: str = "",
        uid: int = 0,
        gid: int = 0,
    ) -> Stdio:
        """Open what the request names; an empty name is /dev/null.

        Never waits for a client.
        The process's ends of the pipes are given to ``uid`` and ``gid``, so that it may
        open them again under /dev/stdout.
        A failure leaves nothing open.
        """
        self = cls()
        with ExitStack() as undo:
            undo.callback(self.close)
            try:
                self._open(stdin, stdout, stderr, uid, gid)
            except OSError as error:
                raise DunnageError(f"failed to open stdio: {reason(error)}") from error
            undo.pop_all()
        return self

    def close_child_ends(self) -> None:
        """Close what the process has by now: as long as we hold it there is no end."""
        if self._null:
            self._null.close()
        if self._input:
            self._input.child.close()
        for output in self._outputs.values():
            output.child.close()

    def start(self) -> None:
        """Begin copying."""
        if self._input:
            self._input.start()
        for output in self._outputs.values():
            output.start()
        self._finish_if_over()

    def close_stdin(self) -> None:
        """End stdin as soon as no client holds it either; idempotent."""
        if self._input:
            self._input.close_stdin()

    async def drained(self, limit_s: float, idle_s: float = 0.2) -> bool:
        """Wait until all output was read; return whether it was.

        False when for ``idle_s`` no byte moved, as with a reader that has stalled or a
        grandchild that keeps the pipe without a word; and after ``limit_s`` anyway.
        Cancelling it, like its end, leaves the copying as it is.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        before, still = self._progress(), 0
        while not self.finished.done():
            left_s = deadline - loop.time()
            if left_s <= 0 or still == _LOOKS:
                return False
            # Many short looks, so that a loop that was kept busy for long is not taken
            # for a stream at rest: each of them lets the pumps have their turn.
            await asyncio.wait((self.finished,), timeout=min(left_s, idle_s / _LOOKS))
            now = self._progress()
            still = still + 1 if now == before else 0
            before = now
        return all(output.was_read for output in self._outputs.values())

    def close(self) -> None:
        """Give up what is left and close everything; idempotent."""
        if self._input:
            self._input.close()
        for output in self._outputs.values():
            output.close()
        self.close_child_ends()
        if not self.finished.done():
            self.finished.set_result(None)

    def _open(self, stdin: str, stdout: str, stderr: str, uid: int, gid: int) -> None:
        # One name for both outputs: one pipe for both, and nothing changes their order.
        for uri in (stdout, stderr):
            if uri and uri not in self._outputs:
                self._outputs[uri] = Output.open(uri, self._finish_if_over)
        if stdin:
            self._input = Input.open(stdin)
        if uid or gid:
            if self._input:
                os.fchown(self._input.child.number, uid, gid)
            for output in self._outputs.values():
                os.fchown(output.child.number, uid, gid)
        if not (stdin and stdout and stderr):
            self._null = Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        null = self._null.number if self._null else -1
        self.child = (
            self._input.child.number if self._input else null,
            self._outputs[stdout].child.number if stdout else null,
            self._outputs[stderr].child.number if stderr else null,
        )

    def _progress(self) -> list[tuple[int, int]]:
        return [output.progress for output in self._outputs.values()]

    def _finish_if_over(self) -> None:
        if not self.finished.done() and all(
            output.is_over for output in self._outputs.values()
        ):
            self.finished.set_result(None)


def _open_sink(uri: str) -> FifoSink:
    """Open what an output's name stands for; later sinks are added here."""
    scheme, separator, _ = uri.partition("://")
    scheme = scheme.lower()
    if not separator or "/" in scheme or scheme == "fifo":
        # As in containerd's shim, `fifo://` is no scheme of its own: a strange path.
        return FifoSink.open(uri)
    if scheme in _LATER_SCHEMES:
        raise Unimplemented(f"STDIO scheme {scheme}")
    raise DunnageError(
        f"failed to create init process I/O: unknown STDIO scheme {scheme}"
    )
