"""The ``start`` action: binds, forks the server, and says where it listens.

Invariant (start-answers-once): one result on stdout, nothing on stderr, and the socket
accepts before that; when two race for one group, one binds and both say its address.

The server is a fork of this process: what was imported need not be imported twice.
It holds none of our streams, as the daemon waits for their end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Final, NamedTuple

from dunnage.bootstrap import address, bundle, endpoint, identifiers, wire
from dunnage.bootstrap.flags import Flags
from dunnage.descriptors import Any
from dunnage.errors import DunnageError, InvalidArgument, Unknown
from dunnage.oci import Spec

from . import socket_file

_TURNS: Final = 5
"""How often a shim may leave before us; after that its address is a guess."""


class Begun(NamedTuple):
    """What `begin` has found out."""

    answer: bytes
    told: wire.Start
    listener: socket.socket | None
    """Where a new server is to serve; None: the container has joined one that lives."""


def start(flags: Flags, stdin: bytes) -> bytes:
    """Start the shim of a container, or find the one of its group; return the answer.

    The server is a fork of this process. Otherwise as `begin`.
    """
    begun = begin(flags, stdin)
    if begun.listener is not None:
        with begun.listener:
            try:
                _fork_server(flags, begun.told, begun.listener)
            except BaseException:
                abandon(begun.listener)
                raise
    return begun.answer


def begin(flags: Flags, stdin: bytes) -> Begun:
    """Bind the socket of a container's shim, or find the shim of its group.

    The working directory is the bundle.

    A new server is where the daemon wants it, and so is this process.

    Raises:
        InvalidArgument: ids, config.json or stdin make no sense.
        Unknown: there can be no server where the daemon wants it.
        OSError: a kernel call failed; nothing is left behind.
    """
    identifiers.validate("namespace", flags.namespace)
    identifiers.validate("container id", flags.id)
    told = wire.parse_start(stdin, flags, os.environ)
    group = address.group_id(_annotations(), flags.id)
    where = address.socket_address(
        told.grpc_address, flags.namespace, group, directory=told.socket_dir
    )
    path = address.unix_name(where)
    # On disk before anybody can need it: a daemon of 1.6 or 1.7 that restarts finds
    # the shim by this file only.
    bundle.write(os.getcwd(), bundle.ADDRESS, where)
    listener, version = None, endpoint.VERSIONS[0]
    # Who leaves has unlinked its socket: the next turn finds none, and binds.
    for _ in range(_TURNS):
        listener = socket_file.bind(path)
        if listener is not None or (version := _joined(path, flags.id)):
            break
    if listener is not None:
        try:
            _settle(told)
        except BaseException:
            abandon(listener)
            listener.close()
            raise
    return Begun(wire.render_answer(told.dialect, where, version), told, listener)


def _settle(told: wire.Start) -> None:
    """Bring this process, and so the server, where the daemon wants it.

    Raises:
        Unknown: it cannot be brought there.
    """
    from dunnage.host.procs import share_no_core

    from . import translate

    if os.environ.get("SCHED_CORE"):
        try:
            share_no_core()
        except OSError as error:
            text = f"enable sched core support: {translate.os_error(error)}"
            raise Unknown(text) from error
    if told.options and (group := _shim_cgroup(told.options)):
        from dunnage.host import cgroups

        try:
            cgroups.join(os.path.normpath(f"/{group.lstrip('/')}"))
        except OSError as error:
            text = f"join shim_cgroup: {translate.os_error(error)}"
            raise Unknown(text) from error


def _shim_cgroup(told: wire.Options) -> str:
    """Return the cgroup that the options name.

    If they make no sense it is for the Create that follows to refuse them.
    """
    from . import translate

    packed = Any(type_url=told.type_url, value=told.value)
    try:
        return translate.options(packed, "").shim_cgroup
    except DunnageError:
        return ""


def abandon(listener: socket.socket) -> None:
    """Undo a bind: nobody will serve there."""
    with contextlib.suppress(OSError):
        os.unlink(str(listener.getsockname()))


def _joined(path: str, container_id: str) -> int:
    from .join import join

    return join(path, container_id)


def _annotations() -> dict[str, str]:
    try:
        return dict(Spec.parse(bundle.read_config(".")).annotations)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidArgument(f"open {bundle.CONFIG}: {reason}") from error


def _fork_server(flags: Flags, told: wire.Start, listener: socket.socket) -> None:
    """Fork the server; on return it lives."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            # Until the server can answer to it: it would kill.
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            _detach_streams()
            from . import daemon

            daemon.look_like_one(flags)
            status = daemon.serve(flags, told, listener)
        finally:
            os._exit(status)
    set_oom_score(pid, os.getppid())


def _detach_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def set_oom_score(pid: int | str, daemon: int) -> None:
    """Make a server a likelier victim than the daemon, by one (containerd #3380).

    A shim with the wrong score is better than none: without privileges it cannot be
    set, and a daemon in another pid namespace cannot be asked.
    """
    with contextlib.suppress(OSError):
        with open(f"/proc/{daemon}/oom_score_adj", "rb") as its:
            score = min(int(its.read()) + 1, 1000)
        with open(f"/proc/{pid}/oom_score_adj", "wb", buffering=0) as ours:
            ours.write(b"%d" % score)
