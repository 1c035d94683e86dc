"""The ``delete`` action: buries a container whose shim is gone, or was never there.

It needs no server, and may be run again.
The daemon also runs it after every orderly delete, when there is nothing left to do.
"""

from __future__ import annotations

import os
import sys
import time

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
    directory = os.path.join(os.path.dirname(os.getcwd()), flags.id)
    if not os.path.isdir(directory) and flags.bundle:
        directory = flags.bundle
    record = bundle.read_exit(directory)
    for problem in bury(directory, flags.namespace, flags.id):
        sys.stderr.write(f"{problem}\n")
    _unlink_socket(directory)
    if record is not None and record.id == flags.id:
        known = wire.Deleted(record.pid, record.exit_status, record.exited_at_ns)
        return wire.render_deleted(known)
    unknown = wire.Deleted(_pid(directory), _KILLED, time.time_ns())
    return wire.render_deleted(unknown)


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
