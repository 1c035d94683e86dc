"""The three streams of one process.

Owns: which descriptors the process gets, when copying ends, and what Delete waits for.
Must not know: which process it is, and how it is run.

Invariant (stdio-survives): a reader that is gone or slow neither kills nor blocks us,
nor loses output within what the fifo and the pipe before it hold; beyond that the
process waits for its reader.
What is unread when the process is deleted is for `held`.

Invariant (no-growth): what is over, or was closed, leads back to nobody who holds it.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from dunnage.errors import DunnageError, kind_of

from .fd import Fd, pipe, unread_bytes
from .fifo import FifoSink, FifoSource, reason
from .file import FileSink
from .logger import END_LIMIT_S, Logged, Logger, LoggerSink
from .null import NullSink
from .pty import ConsoleSocket, Pty
from .pump import Pump
from .uri import LogUri

if TYPE_CHECKING:
    from collections.abc import Callable

    from .sink import Sink

_LOGGERS: Final = frozenset({"binary", "binary-v2"})
_LOOKS: Final = 8  # how often, in a time without progress, to look for some


class Output:
    """One output: where it comes from, the pump, and the sink of the client."""

    def __init__(self, sink: Sink, on_over: Callable[[], None]) -> None:
        self.child = Fd(-1)
        self.is_over = False
        self._sink = sink
        self._on_over = on_over
        self._lost_bytes = 0
        self._pump: Pump | None = None
        self._source = Fd(-1)
        self._close_source: Callable[[], None] = _nothing

    def make_pipe(self) -> None:
        """Take it from a pipe whose other end is the process's."""
        if isinstance(self._sink, LoggerSink):  # a pipe already: there is none to pump
            self.child = self._sink.fd
            return
        source, self.child = pipe()
        self._source, self._close_source = source, source.close
        os.set_blocking(source.number, False)
        self._pump = self._pump_from(source.number)

    def take_from(self, pty: Pty, close: Callable[[], None]) -> None:
        """Take it from a terminal, which is not ours alone: ``close`` closes it."""
        self._source, self._close_source = pty.master, close
        self._pump = self._pump_from(pty.master.number, pty.hold)

    @property
    def was_read(self) -> bool:
        """Whether it is over, and its reader has it all."""
        return self._sink.was_read

    @property
    def progress(self) -> tuple[int, int]:
        """What changes whenever a byte moves: written by us, not read by the client."""
        return self._moved_bytes, self._sink.unread_bytes

    @property
    def is_read(self) -> bool:
        """Whether there is nothing to read now; more may be written."""
        if self._source.is_open and self._pump and not self._pump.is_empty:
            return False
        return self._sink.unread_bytes == 0

    @property
    def unread_bytes(self) -> int:
        """How much waits: in the source, in our hands, and in the sink."""
        return self._untaken_bytes + self._sink.unread_bytes

    @property
    def lost_bytes(self) -> int:
        """How much was given up that nobody can read any more."""
        return self._lost_bytes + self._sink.lost_bytes

    def start(self) -> None:
        """Begin copying."""
        if self._pump:
            self._pump.start()
        else:
            self._sink.finish(self._sink_done, wrote=True)

    def forsake(self) -> None:
        """Be content with the reader that is there, where no other one can come."""
        self._sink.forsake()

    def finish(self) -> None:
        """Copy what is there by now, and no more."""
        if self._pump:
            self._pump.finish()

    def close(self) -> None:
        """Give up what is left; idempotent."""
        if self._pump:
            self._pump.stop()
        self.child.close()
        self._leave_source()
        self._sink.close()
        self._let_go()

    @property
    def _moved_bytes(self) -> int:
        return self._pump.moved_bytes if self._pump else 0

    @property
    def _untaken_bytes(self) -> int:
        if not self._source.is_open or self._pump is None:
            return 0
        return unread_bytes(self._source.number) + self._pump.held_bytes

    def _pump_from(
        self, source: int, on_hangup: Callable[[], None] | None = None
    ) -> Pump:
        sink = self._sink
        return Pump(source, sink.fd.number, self._source_ended, on_hangup, sink.refused)

    def _leave_source(self) -> None:
        # None at the end of the source; but the reader may be gone, or we give up.
        self._lost_bytes += self._untaken_bytes
        self._close_source()

    def _source_ended(self) -> None:
        self._leave_source()
        self._sink.finish(self._sink_done, wrote=self._moved_bytes > 0)

    def _sink_done(self) -> None:
        self.is_over = True
        on_over = self._on_over
        self._let_go()
        on_over()

    def _let_go(self) -> None:
        """Forget our owner, which holds us."""
        self._on_over = self._close_source = _nothing


class Input:
    """Stdin: the client's fifo, the pump, and where it goes.

    ``on_end`` is called when the client has ended it, in place of what a pipe needs:
    to be closed.
    """

    def __init__(
        self, source: FifoSource, on_end: Callable[[], None] | None = None
    ) -> None:
        self.child = Fd(-1)
        self._source = source
        self._sink = Fd(-1)
        self._pump: Pump | None = None
        self._on_end = on_end

    def make_pipe(self) -> None:
        """Have it go to a pipe whose other end is the process's."""
        self.child, self._sink = pipe()
        os.set_blocking(self._sink.number, False)
        source, sink = self._source.fd.number, self._sink.number
        self._pump = Pump(source, sink, self._on_end or self.close)

    def give_to(self, pty: Pty) -> None:
        """Have it go to a terminal, which is not ours to close."""
        source, sink = self._source.fd.number, pty.master.number
        self._pump = Pump(source, sink, self._on_end or self.close, pty.hold)

    def start(self) -> None:
        """Begin copying."""
        assert self._pump, "it goes somewhere by now"
        self._pump.start()

    def close_stdin(self) -> None:
        """Let the end of the last client's input be the end of the process's."""
        self._source.closer.close()

    def close(self) -> None:
        """End the process's input; idempotent."""
        if self._pump:
            self._pump.stop()
        self._source.close()
        self._sink.close()
        self.child.close()
        self._on_end = None


class Stdio:
    """The streams of one process, from `open` to `finished` or `close`.

    Open it, `prepare`, give `child` to the process, `close_child_ends`, `start`.
    Output is copied until every holder of the process's ends is gone, whatever becomes
    of the request that began it; that of a terminal until `process_ended`, and what was
    written until then.
    """

    def __init__(self) -> None:
        self.child: tuple[int, int, int] = (-1, -1, -1)
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._null: Fd | None = None
        self._console: ConsoleSocket | None = None
        self._pty: Pty | None = None
        self._input: Input | None = None
        self._outputs: dict[tuple[str, bool], Output] = {}
        self._loggers: dict[str, Logger] = {}
        self._logged: Logged | None = None

    @classmethod
    def open(
        cls,
        *,
        stdin: str = "",
        stdout: str = "",
        stderr: str = "",
        uid: int = 0,
        gid: int = 0,
        console_in: str = "",
        logged: Logged | None = None,
    ) -> Stdio:
        """Open what the request names; an empty name is /dev/null.

        With ``console_in``, a directory, the process gets a terminal: the runtime makes
        it and sends it to `console_path`, there is no stderr of its own, and the
        runtime itself has no streams.

        Never waits for a client.
        The process's ends of the pipes are given to ``uid`` and ``gid``, so that it may
        open them again under /dev/stdout.
        Without ``logged`` there can be no loggers.
        A failure leaves nothing open.
        """
        self = cls()
        self._logged = logged
        with ExitStack() as undo:
            undo.callback(self.close)
            try:
                if console_in:
                    self._open_console(console_in, stdin, stdout)
                else:
                    self._open(stdin, stdout, stderr, uid, gid)
            except OSError as error:
                text = f"failed to open stdio: {reason(error)}"
                raise kind_of(error, DunnageError)(text) from error
            undo.pop_all()
        return self

    @property
    def console_path(self) -> str:
        """Where the runtime shall send the terminal; empty without one."""
        return self._console.path if self._console else ""

    async def prepare(self) -> None:
        """Have the loggers run, and wait until they are ready.

        Cancelled, or failed, it is to be followed by `close` and `ended`.

        Raises:
            DunnageError: there is no such program, it ended or it was not ready.
        """
        for logger in self._loggers.values():
            await logger.start()

    def close_child_ends(self) -> None:
        """Close what the process has by now: as long as we hold it there is no end."""
        if self._null:
            self._null.close()
        if self._input:
            self._input.child.close()
        for output in self._outputs.values():
            output.child.close()

    def start(self) -> None:
        """Begin copying; a terminal was sent by now.

        Raises:
            DunnageError: it was not.
        """
        if self._console:
            self._take_console(self._console)
        if self._input:
            self._input.start()
        for output in self._outputs.values():
            output.start()
        self._finish_if_over()

    def close_stdin(self) -> None:
        """End stdin as soon as no client holds it either; idempotent.

        The end of a terminal's input is that the line is dropped: what was written is
        read, then the terminal hangs up.
        """
        if self._input:
            self._input.close_stdin()

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal, if there is one."""
        if self._pty:
            self._pty.resize(width, height)

    def process_ended(self) -> None:
        """End the terminal, if there is one, after what was written to it by now."""
        if self._pty is None:
            return
        self.close_input()
        self._pty.let_go()
        for output in self._outputs.values():
            output.finish()

    def close_input(self) -> None:
        """End stdin now, whoever writes to it."""
        if self._input:
            self._input.close()

    @property
    def is_read(self) -> bool:
        """Whether nothing of the output is there to be read; more may be written."""
        return all(output.is_read for output in self._outputs.values())

    @property
    def unread_bytes(self) -> int:
        """How much of the output waits to be read."""
        return sum(output.unread_bytes for output in self._outputs.values())

    @property
    def lost_bytes(self) -> int:
        """How much of the output nobody can read any more."""
        return sum(output.lost_bytes for output in self._outputs.values())

    def forsake(self) -> None:
        """Await no further reader of a fifo that is unlinked."""
        for output in self._outputs.values():
            output.forsake()

    async def drained(self, limit_s: float, idle_s: float = 0.2) -> bool:
        """Wait until all output was read; return whether it was.

        A logger has read it when it has ended.
        False when for ``idle_s`` no byte moved, as with a reader that has stalled or a
        grandchild that keeps the pipe without a word; and after ``limit_s`` anyway.
        Cancelling it, like its end, leaves the copying as it is.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        before, still = self.progress, 0
        while not self.finished.done():
            left_s = deadline - loop.time()
            if left_s <= 0 or still == _LOOKS:
                return False
            # Many short looks, so that a loop that was kept busy for long is not taken
            # for a stream at rest: each of them lets the pumps have their turn.
            await asyncio.wait((self.finished,), timeout=min(left_s, idle_s / _LOOKS))
            now = self.progress
            is_at_rest = now == before and not self._is_ending
            still = still + 1 if is_at_rest else 0
            before = now
        return all(output.was_read for output in self._outputs.values())

    def close(self) -> None:
        """Give up what is left and close everything; idempotent."""
        if self._input:
            self._input.close()
        for logger in self._loggers.values():
            logger.close()
        for output in self._outputs.values():
            output.close()
        if self._console:
            self._console.close()
        self.close_child_ends()
        if not self.finished.done():
            self.finished.set_result(None)

    @property
    def is_logging(self) -> bool:
        """Whether a logger of it is not gone yet."""
        return any(logger.is_running for logger in self._loggers.values())

    async def ended(self, limit_s: float = END_LIMIT_S) -> None:
        """Wait for the end of the loggers; who is late is killed. Follows `close`."""
        for logger in self._loggers.values():
            await logger.ended(limit_s)

    def _open(self, stdin: str, stdout: str, stderr: str, uid: int, gid: int) -> None:
        outputs = [
            self._output(uri, is_stderr=is_stderr) if uri else None
            for uri, is_stderr in ((stdout, False), (stderr, True))
        ]
        self._close_unused(stdout, stderr)
        if stdin:
            self._input = Input(FifoSource.open(stdin))
            self._input.make_pipe()
        if uid or gid:
            if self._input:
                os.fchown(self._input.child.number, uid, gid)
            for output in self._outputs.values():
                os.fchown(output.child.number, uid, gid)
        if not (stdin and stdout and stderr):
            self._null = Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        null = self._null.number if self._null else -1
        out, err = (output.child.number if output else null for output in outputs)
        self.child = (self._input.child.number if self._input else null, out, err)

    def _output(self, uri: str, *, is_stderr: bool) -> Output:
        """Return the output of that name.

        One name for both: one pipe for both, and nothing changes their order; but a
        logger is to tell them apart.
        """
        logger = self._logger(uri)
        key = uri, logger is not None and is_stderr
        if key not in self._outputs:
            if logger:
                sink: Sink = logger.err if is_stderr else logger.out
            else:
                sink = _open_sink(uri)
            self._outputs[key] = output = Output(sink, self._finish_if_over)
            output.make_pipe()
        return self._outputs[key]

    def _logger(self, uri: str) -> Logger | None:
        """Return the logger of that name, if it is one's."""
        if (scheme := _scheme(uri)) not in _LOGGERS:
            return None
        if uri not in self._loggers:
            assert self._logged, "whoever wants loggers says whose output it is"
            says_ready = scheme == "binary-v2"
            self._loggers[uri] = Logger(
                LogUri.parse(uri), self._logged, says_ready=says_ready
            )
        return self._loggers[uri]

    def _close_unused(self, stdout: str, stderr: str) -> None:
        """Close what the loggers have of streams that are not theirs."""
        for uri, logger in self._loggers.items():
            if uri != stdout:
                logger.out.fd.close()
            if uri != stderr:
                logger.err.fd.close()

    def _open_console(self, directory: str, stdin: str, stdout: str) -> None:
        sink: Sink
        if logger := self._logger(stdout):
            sink = logger.out
            os.set_blocking(sink.fd.number, False)
            self._close_unused(stdout, "")
        else:
            # What nobody reads is read nevertheless: the process must not wait for it.
            sink = _open_sink(stdout) if stdout else NullSink.open()
        self._outputs[stdout, False] = Output(sink, self._finish_if_over)
        if stdin:
            self._input = Input(FifoSource.open(stdin), self.process_ended)
        self._console = ConsoleSocket(directory)
        self._null = Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        self.child = (self._null.number,) * 3

    def _take_console(self, console: ConsoleSocket) -> None:
        master = console.receive()
        console.close()
        try:
            self._pty = Pty(master)
        except OSError as error:
            master.close()
            text = f"failed to open the terminal: {reason(error)}"
            raise kind_of(error, DunnageError)(text) from error
        for output in self._outputs.values():
            output.take_from(self._pty, self._close_terminal)
        if self._input:
            self._input.give_to(self._pty)

    def _close_terminal(self) -> None:
        if self._input:
            self._input.close()  # first, as it writes there
        if self._pty:
            self._pty.close()

    @property
    def _is_ending(self) -> bool:
        return any(logger.is_ending for logger in self._loggers.values())

    @property
    def progress(self) -> list[tuple[int, int]]:
        """What changes whenever a byte moves."""
        return [output.progress for output in self._outputs.values()]

    def _finish_if_over(self) -> None:
        if not self.finished.done() and all(
            output.is_over for output in self._outputs.values()
        ):
            self.finished.set_result(None)


def _open_sink(uri: str) -> Sink:
    """Open what an output's name stands for, but for loggers."""
    match _scheme(uri):
        case "":
            return FifoSink.open(uri)
        case "file":
            return FileSink.open(LogUri.parse(uri).path)
        case scheme:
            text = f"failed to create init process I/O: unknown STDIO scheme {scheme}"
            raise DunnageError(text)


def _scheme(uri: str) -> str:
    """Return the scheme of a name, in lower case; none for a path.

    As in containerd's shim, ``fifo://`` is no scheme of its own: a strange path.
    """
    scheme, separator, _ = uri.partition("://")
    scheme = scheme.lower()
    return "" if not separator or "/" in scheme or scheme == "fifo" else scheme


def _nothing() -> None:
    pass
