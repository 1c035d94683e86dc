"""What starting a program costs a shim, in each way that we know.

Run it with the interpreter of ``.venv``; prints a table.
It measures in a process with the shim's imports, and in a forked child of one, as the
shims of a fork server are; the ways take turns, so that a noisy machine is unfair to
all of them.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable

import dunnage.shim.daemon  # what a shim has imported
import dunnage.shim.start  # noqa: F401  # likewise
from dunnage.host import native
from dunnage.host.procs import spawn

ROUNDS = 200
PROGRAM = "/bin/true"

_null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
_fds = (_null, _null, _null)
_fork_without_hooks = ctypes.PyDLL(None).fork
_library = native.library
_kept: list[object] = []


def by_vfork() -> int:
    """Start a program as a shim does where there is the library."""
    return spawn([PROGRAM], fds=_fds, cwd="/")


def by_fork() -> int:
    """Start a program as a shim does without it."""
    native.library = None
    try:
        return by_vfork()
    finally:
        native.library = _library


def by_fork_without_hooks() -> int:
    """Do the same with libc's fork, of which Python hears nothing."""
    real, os.fork = os.fork, _fork_without_hooks
    try:
        return by_fork()
    finally:
        os.fork = real


def by_posix_spawn() -> int:
    """Start a program without a directory and a parent-death signal."""
    return os.posix_spawn(PROGRAM, [PROGRAM], os.environ)


def bare_fork() -> int:
    """Do nothing in a child, the least that a copy of us costs."""
    pid: int = _fork_without_hooks()
    if pid == 0:
        os._exit(0)
    return pid


def errand() -> int:
    """Unmount where nothing is mounted, sharing our memory."""
    assert _library
    stack = ctypes.create_string_buffer(16 << 10)
    call = native.Errand(target=b"/nonexistent")
    call.stack = ctypes.cast(stack, ctypes.c_void_p)
    call.stack_bytes = len(stack)
    _kept[:] = call, stack
    pid: int = _library.dunnage_unmount(call)
    return pid


def measure(label: str) -> None:
    """Print the medians of every way."""
    ways: list[Callable[[], int]] = [by_fork, by_fork_without_hooks, by_posix_spawn]
    ways.append(bare_fork)
    if _library:
        ways += [by_vfork, errand]
    goes_on: dict[str, list[float]] = {way.__name__: [] for way in ways}
    ended: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            begin = time.perf_counter()
            pid = way()
            goes_on[way.__name__].append(time.perf_counter() - begin)
            os.waitpid(pid, 0)
            ended[way.__name__].append(time.perf_counter() - begin)
    print(f"{label}: median ms until the parent goes on, until the child has ended")
    for name, times in goes_on.items():
        first, second = (statistics.median(t) * 1e3 for t in (times, ended[name]))
        print(f"  {name:22} {first:7.3f} {second:7.3f}", flush=True)


def main() -> int:
    """Measure here, and in a child."""
    measure("in a process with the imports of a shim")
    gc.collect()
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        measure("in a forked child of it")
        os._exit(0)
    os.waitpid(pid, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
