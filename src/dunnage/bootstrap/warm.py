"""How a launcher asks the fork server: which server may serve it, and in what words.

A fork inherits from the server what it should have inherited from whoever called: its
namespaces, cgroups, limits, privileges and more.
So a server is found by a name made of all that, and serves only who has the same: the
*key*.
The caller makes it of its own /proc/self to find the server; the fork makes it again of
the caller's /proc/PID, and refuses where they differ.

Owns: the key, the names in the file system, the bytes of request and answer.
Must not know: sockets, forks.

The compiled launcher (``launcher/``) says the same in C.

Invariant (cold-start): nothing is imported here but ``os`` and ``types``.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final

DIRECTORY_VARIABLE: Final = "DUNNAGE_FORKSERVER"
NEVER: Final = "off"
ARGV0_VARIABLE: Final = "DUNNAGE_ARGV0"
"""By which name a launcher was called, for the cold way that it falls back to."""
SOCKET: Final = "s"

MAGIC: Final = b"DNG1"
REQUEST_LIMIT_BYTES: Final = 64 << 20
READY: Final = b"R"
REFUSED: Final = b"N"
GO: Final = b"G"
ANSWER: Final = b"A"
KNOWN: Final = b"K"
"""The caller has passed the answer on."""

_STATUS_LINES: Final = (
    b"Uid",
    b"Gid",
    b"Groups",
    b"CapInh",
    b"CapPrm",
    b"CapEff",
    b"CapBnd",
    b"CapAmb",
    b"NoNewPrivs",
    b"Seccomp",
    b"Seccomp_filters",
    b"Cpus_allowed",
    b"Mems_allowed",
)
_NAMESPACES: Final = (
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid",
    "pid_for_children",
    "time",
    "time_for_children",
    "user",
    "uts",
)
_VALUES: Final = (
    "oom_score_adj",
    "loginuid",
    "sessionid",
    "personality",
    "timerslack_ns",
)
# They act on the interpreter, on libc or on ld.so, before any code of ours runs.
_VARIABLE_PREFIXES: Final = (b"LD_", b"MALLOC_", b"PYTHON")
_VARIABLES: Final = (b"GLIBC_TUNABLES",)
# Of /proc/PID/stat, counted from what follows the command's name.
_PARENT, _NICE, _RT_PRIORITY, _POLICY = 1, 16, 37, 38


class WireError(Exception):
    """What the other side said makes no sense."""


# -- names


def directory(environ: Mapping[str, str], uid: int) -> str | None:
    """Return where the fork servers of a user listen; None: they are not wanted."""
    told = environ.get(DIRECTORY_VARIABLE, "")
    if told:
        return told if told.startswith("/") else None
    base = "/run" if uid == 0 else f"/run/user/{uid}"
    return f"{base}/dunnage/forkserver"


def name(key: bytes) -> str:
    """Return what the directory of a key's server is called: FNV-1a of 64 bits.

    It need not be hard to forge: whether the key fits is looked at again.
    """
    value = 0xCBF29CE484222325
    for byte in key:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def code(version: str, path: str) -> str:
    """Return what tells the code of one installation from that of another.

    Args:
        version: the package's.
        path: the launcher's own file, which every installation writes anew.

    Raises:
        OSError: it is not there.
    """
    status = os.stat(path)
    return (
        f"{version}:{status.st_dev}:{status.st_ino}"
        f":{status.st_mtime_ns}:{status.st_size}"
    )


# -- the key


def key(proc: int, code: str, environ: Iterable[bytes]) -> bytes:
    """Return all that a fork would inherit wrongly from another, as text.

    What cannot be read is an empty value.

    Args:
        proc: an fd of the directory /proc/PID.
        code: as `code` returns it.
        environ: the process's environment, each entry as ``NAME=value``.
    """
    lines = [b"code=" + os.fsencode(code)]
    status = _read(proc, "status").split(b"\n")
    by_name = {line.partition(b":")[0]: line for line in status}
    lines += [by_name[name] for name in _STATUS_LINES if name in by_name]
    lines.append(b"attr=" + _read(proc, "attr/current").rstrip(b"\0\n"))
    lines.append(b"root=" + _identity(proc, "root"))
    lines += [
        b"ns/" + kind.encode() + b"=" + _link(proc, f"ns/{kind}")
        for kind in _NAMESPACES
    ]
    lines.append(_read(proc, "cgroup").rstrip(b"\n"))
    lines += [value.encode() + b"=" + _read(proc, value).rstrip() for value in _VALUES]
    lines.append(_read(proc, "limits").rstrip(b"\n"))
    fields = _stat(proc)
    if len(fields) > _POLICY:
        scheduling = [fields[at] for at in (_NICE, _RT_PRIORITY, _POLICY)]
        lines.append(b"sched=" + b":".join(scheduling))
    else:
        lines.append(b"sched=")
    lines += [b"env:" + entry for entry in kept_variables(environ)]
    return b"\n".join(lines) + b"\n"


def kept_variables(environ: Iterable[bytes]) -> list[bytes]:
    """Return the entries of an environment that a server is started with."""
    return sorted(
        entry
        for entry in environ
        if entry.startswith(_VARIABLE_PREFIXES)
        or entry.partition(b"=")[0] in _VARIABLES
    )


def parent(proc: int) -> int:
    """Return the pid of a process's parent, 0 if there is none to be seen."""
    fields = _stat(proc)
    return int(fields[_PARENT]) if len(fields) > _PARENT else 0


def _stat(proc: int) -> list[bytes]:
    return _read(proc, "stat").rpartition(b")")[2].split()


def _read(proc: int, name: str) -> bytes:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return b""
    try:
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _link(proc: int, name: str) -> bytes:
    try:
        return os.fsencode(os.readlink(name, dir_fd=proc))
    except OSError:
        return b""


def _identity(proc: int, name: str) -> bytes:
    try:
        status = os.stat(name, dir_fd=proc)
    except OSError:
        return b""
    return f"{status.st_dev}:{status.st_ino}".encode()


# -- the bytes


class Request(SimpleNamespace):
    """What a launcher was called with; a value.

    ``environ`` has ``NAME=value`` entries; the working directory comes beside it, as
    an fd.
    """

    umask: int
    code: str
    argv: list[bytes]
    environ: list[bytes]
    stdin: bytes

    def __init__(
        self,
        *,
        umask: int,
        code: str,
        argv: Sequence[bytes],
        environ: Sequence[bytes],
        stdin: bytes,
    ) -> None:
        super().__init__(
            umask=umask,
            code=code,
            argv=list(argv),
            environ=list(environ),
            stdin=stdin,
        )

    def pack(self) -> bytes:
        """Return the whole message."""
        parts = [_number(self.umask), _text(os.fsencode(self.code))]
        for words in (self.argv, self.environ):
            parts.append(_number(len(words)))
            parts += [_text(word) for word in words]
        parts.append(_text(self.stdin))
        body = b"".join(parts)
        return MAGIC + _number(len(body)) + body

    @classmethod
    def parse(cls, body: bytes) -> Request:
        """Read what follows magic and length.

        Raises:
            WireError: it ends too early, or does not end.
        """
        reader = _Reader(body)
        umask, code = reader.number(), reader.text()
        argv = [reader.text() for _ in range(reader.number())]
        environ = [reader.text() for _ in range(reader.number())]
        stdin = reader.text()
        reader.end()
        return cls(
            umask=umask & 0o777,
            code=os.fsdecode(code),
            argv=argv,
            environ=environ,
            stdin=stdin,
        )


HEADER_BYTES: Final = 8


def body_length(header: bytes) -> int:
    """Return how many bytes follow the first eight of a request.

    Raises:
        WireError: it is no request, or longer than any is.
    """
    if len(header) != HEADER_BYTES or header[:4] != MAGIC:
        raise WireError("this is no request to a fork server")
    length = int.from_bytes(header[4:], "little")
    if length > REQUEST_LIMIT_BYTES:
        raise WireError(f"a request of {length} bytes is longer than any is")
    return length


class Answer(SimpleNamespace):
    """What a launcher has to write, and to exit with; a value."""

    status: int
    stdout: bytes
    stderr: bytes

    def __init__(self, status: int, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(status=status, stdout=stdout, stderr=stderr)

    def pack(self) -> bytes:
        """Return the whole message."""
        return ANSWER + _number(self.status) + _text(self.stdout) + _text(self.stderr)

    @classmethod
    def parse(cls, message: bytes) -> Answer:
        """Read a whole message.

        Raises:
            WireError: it is none.
        """
        if message[:1] != ANSWER:
            raise WireError("this is no answer of a fork server")
        reader = _Reader(message[1:])
        answer = cls(reader.number(), reader.text(), reader.text())
        reader.end()
        return answer


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _text(data: bytes) -> bytes:
    return _number(len(data)) + data


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def text(self) -> bytes:
        return self._take(self.number())

    def end(self) -> None:
        if self._at != len(self._data):
            raise WireError("there are bytes behind the end")

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise WireError("it ends too early")
        self._at += count
        return taken
