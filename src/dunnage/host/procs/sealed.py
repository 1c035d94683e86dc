"""Copies of programs in sealed memory, for those that would copy themselves.

A container could write to the runtime's own file while that enters it (CVE-2019-5736).
So runc and crun copy themselves to sealed memory at every call, and begin anew there;
unless they find that they run from such memory already.
One copy serves all forks of a process that keeps it: `spawn` takes it in the place of
the file, as long as the file is the one that was copied.

Invariant (the-file-decides): what the file would not do, its copy does not: it is run
only where the same file could be executed at the same path, and would gain nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

_MFD_EXEC: Final = 0x10
"""Linux 6.3 and later; before that all memory files could be executed."""
_F_ADD_SEALS: Final = 1033
_SEALS: Final = 0b1111
"""No more seals, and neither shrink, grow nor write: what runc and crun look for."""
_MOST_BYTES: Final = 64 << 20
_MAGIC: Final = b"\x7fELF"
_GAINS: Final = stat.S_ISUID | stat.S_ISGID


class _Copy(NamedTuple):
    original: tuple[int, ...]
    fd: int


_copies: dict[str, _Copy] = {}


def keep(names: Iterable[str], path: str) -> None:
    """Copy programs, for us and for our forks; renew what is not as its file is now.

    Those that cannot be copied are left out: they are run from their files.

    Args:
        names: of programs; for each the first that is found is copied.
        path: where they are, as in PATH.
    """
    if os.geteuid() != 0:
        return  # the file may be a way to rights that its copy would not give
    for name in names:
        for place in path.split(":"):
            program = os.path.join(place, name)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                about = os.stat(program)
                _renew(program, _identity(about))
                break


def at(program: str) -> str | None:
    """Return where the copy of a program can be executed; None if there is none."""
    if (copy := _copies.get(program)) is None:
        return None
    try:
        about = os.stat(program)
    except OSError:
        return None
    return f"/proc/self/fd/{copy.fd}" if _identity(about) == copy.original else None


def _renew(program: str, identity: tuple[int, ...]) -> None:
    old = _copies.get(program)
    if old and old.original == identity:
        return
    if old:
        del _copies[program]
        os.close(old.fd)
    with contextlib.suppress(OSError):
        if (fd := _copied(program, identity)) is not None:
            _copies[program] = _Copy(identity, fd)


def _copied(program: str, identity: tuple[int, ...]) -> int | None:
    """Return a sealed copy, or None for what can't have one.

    Raises:
        OSError: there is no room, or the kernel wants no such files.
    """
    with open(program, "rb", buffering=0) as file:
        about = os.fstat(file.fileno())
        if not _can_be_copied(program, about) or file.read(len(_MAGIC)) != _MAGIC:
            return None
        fd = _memory(os.path.basename(program))
        try:
            size = 0
            while count := os.sendfile(fd, file.fileno(), size, _MOST_BYTES):
                size += count
            fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
            # Somebody may have written to it meanwhile, or put another in its place.
            found = {_identity(about), _identity(os.stat(program))}
        except BaseException:
            os.close(fd)
            raise
    if size == about.st_size and found == {identity}:
        return fd
    os.close(fd)
    return None


def _can_be_copied(program: str, about: os.stat_result) -> bool:
    return (
        stat.S_ISREG(about.st_mode)
        and not about.st_mode & _GAINS
        and about.st_size <= _MOST_BYTES
        and os.access(program, os.X_OK)  # which also asks whether it is mounted noexec
        and not _has_capabilities(program)
    )


def _has_capabilities(program: str) -> bool:
    try:
        os.getxattr(program, "security.capability")
    except OSError as error:
        return error.errno not in {errno.ENODATA, errno.ENOTSUP}
    return True


def _memory(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def _identity(about: os.stat_result) -> tuple[int, ...]:
    times = about.st_mtime_ns, about.st_ctime_ns
    return about.st_dev, about.st_ino, about.st_size, *times
