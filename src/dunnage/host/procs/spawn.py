"""Starting a program, with what ``posix_spawn`` lacks.

A runtime that we call must die with us (a logger must not), must start in a given
directory, and must not inherit what Python or we changed: ignored signals, the signal
mask, a raised ``RLIMIT_NOFILE``.
`dunnage.host.native` does all of this between vfork and exec.
Where it was not built, a plain fork does, ten times slower; the process is
single-threaded, so what runs in the child between fork and exec is safe to be Python.

Every fd that we open is close-on-exec: a child has what it is given as 0, 1, 2 and so
on, and nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NoReturn

from dunnage.host import native

from . import sealed
from .prctl import set_parent_death_signal

_HANDLED: Final = (
    # What Python ignores, or this package handles: back to what a program expects.
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,
)

_DEFAULTS: Final = sum(1 << (signum - 1) for signum in _HANDLED)

_OUTPUT_LIMIT_BYTES: Final = 16 << 20

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})

_original_nofile = resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_nofile_limit() -> None:
    """Raise our own soft limit on fds to the hard one; children get the old one back.

    Go programs do this by themselves; under systemd the soft limit is 1024.
    """
    _, hard = _original_nofile
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _nofile_of_a_child() -> tuple[int, int]:
    """Return our first soft limit, within the hard one, which may be lower by now."""
    soft, _ = _original_nofile
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    return (soft if hard == unlimited or 0 <= soft <= hard else hard), hard


def fork_child(body: Callable[[], None], *, outlives: bool = False) -> int:
    """Fork a child that runs ``body``, and dies with us unless it ``outlives``.

    The child leaves by ``os._exit``: 0, or 1 when ``body`` raised.

    Returns:
        Its pid.
    """
    everything = signal.valid_signals()
    # No signal may reach a handler of ours in the child: it would write to the
    # wake-up fd that the child shares with us.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, everything)
    parent = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            _be_the_child(body, parent, mask, outlives=outlives)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _be_the_child(
    body: Callable[[], None],
    parent: int,
    mask: set[int | signal.Signals],
    *,
    outlives: bool,
) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for signum in _HANDLED:
            signal.signal(signum, signal.SIG_DFL)
        if not outlives:
            set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == parent:  # else it died before we asked
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            body()
            status = 0
    except BaseException:  # noqa: BLE001, S110  # body reports by its own means
        pass
    finally:
        os._exit(status)


def spawn(
    argv: Sequence[str],
    *,
    fds: Sequence[int],
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    outlives: bool = False,
) -> int:
    """Start ``argv`` with ``fds`` as its 0, 1, 2 and so on.

    Args:
        argv: the program, found by PATH (its own) unless it has a slash, and arguments.
        fds: three to six; none of them may be 0, 1 or 2 itself.
        env: the environment; None: ours.
        cwd: its working directory; None: ours.
        outlives: it is not killed when we die.

    Returns:
        The pid of a child of ours.

    Raises:
        OSError: fork failed, or the child could not exec: no such program, not
            executable, no such directory; ``filename`` names the program.
    """
    variables = os.environ if env is None else env
    try:
        order = _Order(argv, fds, variables, cwd, outlives=outlives)
    except ValueError:  # a NUL, which the kernel never gets to see
        raise _refused(errno.EINVAL, argv[0]) from None
    code = order.by_vfork(native.library) if native.library else order.by_fork()
    if code < 0:
        raise _refused(-code, argv[0])
    return code


def _refused(code: int, program: str) -> OSError:
    return OSError(code, os.strerror(code), program)


class _Order:
    """What is to be started, in the bytes that the kernel takes."""

    def __init__(
        self,
        argv: Sequence[str],
        fds: Sequence[int],
        env: Mapping[str, str],
        cwd: str | None,
        *,
        outlives: bool,
    ) -> None:
        self._programs = _encoded(_programs(argv[0], env))
        self._argv = _encoded(argv)
        self._env = _encoded(f"{name}={value}" for name, value in env.items())
        self._cwd = None if cwd is None else _encoded([cwd])[0]
        self._fds = fds
        self._outlives = outlives

    def by_vfork(self, library: ctypes.CDLL) -> int:
        """Return the pid of what was started, or an errno, negated."""
        order = native.Order(
            *map(native.pointers, (self._programs, self._argv, self._env)),
            *(self._cwd, _DEFAULTS, *_nofile_of_a_child()),
            *((ctypes.c_int32 * native.MOST_FDS)(*self._fds), len(self._fds)),
            self._outlives,
        )
        code: int = library.dunnage_spawn(order)
        return code

    def by_fork(self) -> int:
        """Do the same in Python."""
        report, told = os.pipe2(os.O_CLOEXEC)
        if told < native.MOST_FDS:  # where the program's will be
            low, told = told, fcntl.fcntl(told, fcntl.F_DUPFD_CLOEXEC, native.MOST_FDS)
            os.close(low)

        def body() -> None:
            try:
                self._execute()
            except OSError as error:
                os.write(told, str(error.errno).encode())
                raise

        try:
            pid = fork_child(body, outlives=self._outlives)
            os.close(told)
            told = -1
            # Closed by the exec (nothing to read), or told why there was none. The
            # child gets there without waiting for anything but the disk.
            if code := os.read(report, 16):
                os.waitpid(pid, 0)
                return -int(code)
        finally:
            os.close(report)
            if told >= 0:
                os.close(told)
        return pid

    def _execute(self) -> None:
        count = len(self._fds)
        # One that is in another's place is moved first.
        apart = [
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, count) if fd < count else fd
            for fd in self._fds
        ]
        for target, fd in enumerate(apart):
            os.dup2(fd, target)
        if self._cwd is not None:
            os.chdir(self._cwd)
        resource.setrlimit(resource.RLIMIT_NOFILE, _nofile_of_a_child())
        env = dict(variable.split(b"=", 1) for variable in self._env)
        failures: list[OSError] = []
        for program in self._programs:
            try:
                os.execve(program, self._argv, env)
            except OSError as error:
                failures.append(error)
        found = [error for error in failures if error.errno not in _ABSENT]
        raise found[0] if found else failures[-1]


def _programs(name: str, env: Mapping[str, str]) -> list[str]:
    """Return the paths at which a program may be, in the order of PATH.

    A sealed copy is tried before its file.
    """
    if "/" in name:
        paths = [name]
    else:
        path = env.get("PATH", os.defpath)
        paths = [os.path.join(place, name) for place in path.split(":")]
    return [each for path in paths for each in (sealed.at(path), path) if each]


def _encoded(texts: Iterable[str]) -> list[bytes]:
    """Encode for the kernel, which would stop reading at a NUL."""
    encoded = [os.fsencode(text) for text in texts]
    if any(b"\0" in text for text in encoded):
        raise ValueError("embedded null character")
    return encoded


def run_to_end(
    argv: Sequence[str], *, cwd: str | None = None, stdout_only: bool = False
) -> tuple[int, bytes]:
    """Run ``argv`` and wait, blocking; for short-lived programs without a loop.

    Nobody is waited for whom the program leaves behind.

    Args:
        argv: the program and its arguments.
        cwd: its working directory; None: ours.
        stdout_only: what it says on stderr is dropped.

    Returns:
        Its exit status (128 + signal when killed), and its stdout and stderr together.

    Raises:
        OSError: it could not be started.
    """
    # A file, not a pipe: it never fills, and its end is there when the program is gone.
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        errors = null if stdout_only else output
        pid = spawn(argv, fds=(null, output, errors), cwd=cwd)
        _, status = os.waitpid(pid, 0)
        return exit_status(status), os.pread(output, _OUTPUT_LIMIT_BYTES, 0)
    finally:
        os.close(output)
        os.close(null)


def exit_status(wait_status: int) -> int:
    """Turn what waitpid(2) gives into 0–255, or 128 + signal."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
