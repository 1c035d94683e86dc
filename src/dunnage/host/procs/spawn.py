"""fork and exec, with what ``posix_spawn`` lacks.

A runtime that we call must die with us, must start in a given directory, and must not
inherit what Python or we changed: ignored signals, the signal mask, a raised
``RLIMIT_NOFILE``.
``posix_spawn`` offers neither the directory nor the parent-death signal, so this is a
plain fork; the process is single-threaded, so what runs in the child between fork and
exec is safe to be Python.

Every fd that we open is close-on-exec: a child has what it is given as 0, 1 and 2, and
nothing else.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

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


def fork_child(body: Callable[[], None]) -> int:
    """Fork a child that dies with us and runs ``body``; return its pid.

    The child leaves by ``os._exit``: 0, or 1 when ``body`` raised.
    """
    everything = signal.valid_signals()
    # No signal may reach a handler of ours in the child: it would write to the
    # wake-up fd that the child shares with us.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, everything)
    parent = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            _be_the_child(body, parent, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _be_the_child(
    body: Callable[[], None], parent: int, mask: set[int | signal.Signals]
) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for signum in _HANDLED:
            signal.signal(signum, signal.SIG_DFL)
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
    fds: tuple[int, int, int],
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> int:
    """Start ``argv`` with ``fds`` as its 0, 1 and 2; it is killed when we die.

    Args:
        argv: the program, found by PATH (ours) unless it has a slash, and arguments.
        fds: none of them may be 0, 1 or 2 itself.
        env: the environment; None: ours.
        cwd: its working directory; None: ours.

    Returns:
        The pid of a child of ours.

    Raises:
        OSError: fork failed, or the child could not exec: no such program, not
            executable, no such directory; ``filename`` names the program.
    """
    report, told = os.pipe2(os.O_CLOEXEC)

    def body() -> None:
        try:
            for target, fd in enumerate(fds):
                os.dup2(fd, target)
            if cwd is not None:
                os.chdir(cwd)
            resource.setrlimit(resource.RLIMIT_NOFILE, _nofile_of_a_child())
            os.execvpe(argv[0], list(argv), dict(os.environ if env is None else env))
        except OSError as error:
            os.write(told, str(error.errno).encode())
            raise
        except ValueError:  # a NUL, which the kernel never gets to see
            os.write(told, str(errno.EINVAL).encode())
            raise

    try:
        pid = fork_child(body)
        os.close(told)
        told = -1
        # Closed by the exec (nothing to read), or told why there was none. The child
        # gets there without waiting for anything but the disk.
        if code := os.read(report, 16):
            os.waitpid(pid, 0)
            raise OSError(int(code), os.strerror(int(code)), argv[0])
    finally:
        os.close(report)
        if told >= 0:
            os.close(told)
    return pid


def run_to_end(argv: Sequence[str], *, cwd: str | None = None) -> tuple[int, bytes]:
    """Run ``argv`` and wait, blocking; for short-lived programs without a loop.

    Returns:
        Its exit status (128 + signal when killed), and its stdout and stderr together.

    Raises:
        OSError: it could not be started.
    """
    output, child_end = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = spawn(argv, fds=(null, child_end, child_end), cwd=cwd)
    except OSError:
        os.close(output)
        raise
    finally:
        os.close(child_end)
        os.close(null)
    with open(output, "rb") as pipe:  # an fd
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return exit_status(status), said


def exit_status(wait_status: int) -> int:
    """Turn what waitpid(2) gives into 0–255, or 128 + signal."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
