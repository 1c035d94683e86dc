"""The files of a bundle: their names, and how they are written and read.

Owns: names, whole-or-nothing writes, the record of an exit.
Must not know: what options or a spec mean.

Invariant (exit-on-disk): an exit that is recorded is read back, by whoever comes
    later; a record that could not be written is an OSError to the writer, and never
    half a record to the reader.
Invariant (cold-start): nothing is imported here but ``os``, ``types`` and what they
    import; ``json`` comes when a record does.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISREG
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Written by the daemon.
CONFIG: Final = "config.json"
ROOTFS: Final = "rootfs"
WORK: Final = "work"
LOG: Final = "log"
SHIM_BINARY_PATH: Final = "shim-binary-path"
BOOTSTRAP: Final = "bootstrap.json"
SANDBOX: Final = "sandbox"
# By our manager alone: which process the shim is.
SHIM: Final = "dunnage-shim.json"
# Likewise: where the log of events ended when the bundle was made.
BORN: Final = "dunnage-born"

# Written by the shim.
ADDRESS: Final = "address"
OPTIONS: Final = "options.json"
RUNTIME: Final = "runtime"
SOCKET_DIRECTORY: Final = "s"
CRIU_DUMP_LOG: Final = "criu-dump.log"
CRIU_RESTORE_LOG: Final = "criu-restore.log"
CRIU_WORK: Final = "criu-work"
# Ours alone: what became of init, for `delete` when the shim is gone.
EXIT: Final = "dunnage-exit.json"
# Ours alone: by what `delete` knows the processes and cgroups of a dead shim.
TRACES: Final = "dunnage-traces.json"

# Written by the OCI runtime.
INIT_PID: Final = "init.pid"
RUNTIME_LOG: Final = "log.json"

# Nothing that is read whole has a reason to be longer. A spec comes to the daemon in a
# gRPC message, of 16 MiB at the most.
_READ_LIMIT_BYTES: Final = 1 << 20
_CONFIG_LIMIT_BYTES: Final = 16 << 20


def pid_file(exec_id: str) -> str:
    """Return the name of the pid file of an exec."""
    return f"{exec_id}.pid"


def write(bundle: str, name: str, content: str | bytes, *, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    It is not synced: a bundle lives on a tmpfs, which a crash of the machine empties.

    Raises:
        OSError: it could not be written (a full disk); the old content stands and
            nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    path = f"{bundle}/{name}"
    draft = f"{bundle}/.{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(draft, flags, mode)
    try:
        try:
            # The umask came from the daemon; the mode is part of the contract.
            os.fchmod(fd, mode)
            while data:
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)
        os.rename(draft, path)
    except BaseException as error:
        os.unlink(draft)
        if isinstance(error, OSError):
            error.filename = path  # a full disk is met by a call that knows only an fd
        raise


def read(bundle: str, name: str) -> str | None:
    """Return the text of a file without surrounding white space, None if it is absent.

    Raises:
        OSError: it is there and cannot be read, or is longer than it can be.
    """
    try:
        data = read_whole(f"{bundle}/{name}")
    except FileNotFoundError:
        return None
    return data.decode("utf-8", "replace").strip()


def read_config(bundle: str) -> bytes:
    """Return the content of config.json.

    Raises:
        OSError: it is absent, cannot be read, or is longer than it can be.
    """
    return read_whole(f"{bundle}/{CONFIG}", _CONFIG_LIMIT_BYTES)


def read_whole(path: str, limit_bytes: int = _READ_LIMIT_BYTES) -> bytes:
    """Read a regular file; it is never waited for, whatever stands there.

    Raises:
        OSError: it is absent, cannot be read, or is longer than it can be.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if status.st_size > limit_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
    finally:
        os.close(fd)
    return b"".join(chunks)


class ExitRecord(SimpleNamespace):
    """What became of a process; a value."""

    id: str
    pid: int
    exit_status: int
    exited_at_ns: int

    def __init__(
        self,
        id: str,  # noqa: A002 - containerd's word for it
        pid: int,
        exit_status: int,
        exited_at_ns: int,
    ) -> None:
        super().__init__(
            id=id, pid=pid, exit_status=exit_status, exited_at_ns=exited_at_ns
        )


def write_exit(bundle: str, record: ExitRecord) -> None:
    """Put the exit of init on disk.

    Raises:
        OSError: as `write`; the caller logs it and says the exit all the same.
    """
    import json

    write(bundle, EXIT, json.dumps(vars(record)))


def read_exit(bundle: str) -> ExitRecord | None:
    """Return the exit that was recorded, None if there is none that makes sense.

    Whoever asks has lost its shim and has a fallback (137, now), so nothing that is
    wrong with the file is an error.
    """
    import json

    try:
        fields = json.loads(read(bundle, EXIT) or "null")
        numbers = [fields[name] for name in ("pid", "exit_status", "exited_at_ns")]
        name = fields["id"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(name, str) or any(type(number) is not int for number in numbers):
        return None
    return ExitRecord(name, *numbers)
