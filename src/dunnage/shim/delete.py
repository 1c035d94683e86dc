"""The ``delete`` action: buries a container whose shim is gone, or was never there.

It needs no server, no bundle even, and may be run again, also while it runs.
The daemon also runs it after every orderly delete, when there is nothing left to do.

Invariant (always-an-answer): whatever is missing or broken, a `delete` with ids that
make sense says a status.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator

from dunnage.bootstrap import address, bundle, identifiers, wire
from dunnage.bootstrap.flags import Flags
from dunnage.drivers.runc import bury
from dunnage.errors import DunnageError

from . import socket_file

_KILLED = 128 + 9


def delete(flags: Flags) -> bytes:
    """Kill and remove what is left of the container; return the marshalled answer.

    It tells the true exit if the shim knew it before it died, else 137 and now.
    What goes wrong is told on stderr, which the daemon logs.

    Raises:
        InvalidArgument: the id makes no sense.
    """
    identifiers.validate("namespace", flags.namespace)
    identifiers.validate("container id", flags.id)
    directory = _bundle_of(flags)
    with _alone(directory):
        record = bundle.read_exit(directory)
        for problem in bury(directory, flags.namespace, flags.id):
            sys.stderr.write(f"{problem}\n")
        _unlink_socket(directory)
    if record is not None and record.id == flags.id:
        known = wire.Deleted(record.pid, record.exit_status, record.exited_at_ns)
        return wire.render_deleted(known)
    unknown = wire.Deleted(_pid(directory), _KILLED, time.time_ns())
    return wire.render_deleted(unknown)


def _bundle_of(flags: Flags) -> str:
    """Return the bundle: beside the working directory, or else where we are told."""
    # Not getcwd(3): it fails where the directory is gone.
    here = os.readlink("/proc/self/cwd")
    directory = os.path.join(os.path.dirname(here), flags.id)
    is_there = os.path.isdir(directory)
    return flags.bundle if flags.bundle and not is_there else directory


@contextlib.contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Wait for another `delete` of this bundle, if there is one; it ends or is killed.

    Two runtimes that delete one container trip over each other.
    """
    fd = -1
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:
        pass  # there is no bundle
    try:
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _pid(directory: str) -> int:
    try:
        return int(bundle.read(directory, bundle.INIT_PID) or 0)
    except (OSError, ValueError):
        return 0


def _unlink_socket(directory: str) -> None:
    """Remove the socket of a dead shim; one that lives has other containers."""
    try:
        if where := bundle.read(directory, bundle.ADDRESS):
            socket_file.unlink_if_stale(address.unix_name(where))
    except (OSError, DunnageError) as error:
        sys.stderr.write(f"socket: {error}\n")
