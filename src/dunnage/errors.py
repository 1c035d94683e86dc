"""What can go wrong, as types: one root, one class per gRPC code, and who is to blame.

Raise these anywhere; the ttrpc server answers with ``code`` and ``wire_text`` by
attribute, and the ttrpc client raises the same class again on the other side.

The codes are gRPC's.
The text that containerd's error classes append to a message (``: not found``) is that
of its errdefs package; it goes onto the wire exactly once, and the receiving side takes
it off again.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

_EXHAUSTED: Final = frozenset(
    {
        errno.EAGAIN,  # fork, at a limit on processes
        errno.EDQUOT,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ENOSPC,
    }
)


class DunnageError(Exception):
    """The root of every error of this package; on the wire: code 2, unknown."""

    code: ClassVar[int] = 2
    suffix: ClassVar[str] = ""

    @property
    def message(self) -> str:
        """The text without the suffix of its class."""
        return str(self.args[0]) if self.args else type(self).__name__

    @property
    def wire_text(self) -> str:
        """The text as containerd's errdefs writes it, suffix included once."""
        if not self.suffix or self.message == self.suffix:
            return self.message or self.suffix
        tail = f": {self.suffix}"
        return self.message if self.message.endswith(tail) else self.message + tail


class Cancelled(DunnageError):
    """The caller gave up."""

    code = 1
    suffix = "context canceled"


class Unknown(DunnageError):
    """Anything without a class of its own; most of the Go shim's refusals."""


class InvalidArgument(DunnageError):
    """The request itself is wrong, whatever the state."""

    code = 3
    suffix = "invalid argument"


class DeadlineExceeded(DunnageError):
    """Time ran out before an answer came."""

    code = 4
    suffix = "context deadline exceeded"


class NotFound(DunnageError):
    """No such thing."""

    code = 5
    suffix = "not found"


class AlreadyExists(DunnageError):
    """The id is taken."""

    code = 6
    suffix = "already exists"


class PermissionDenied(DunnageError):
    """The kernel, or we, say no to this caller."""

    code = 7
    suffix = "permission denied"


class ResourceExhausted(DunnageError):
    """A limit is reached: a message too long, a full disk."""

    code = 8
    suffix = "resource exhausted"


class FailedPrecondition(DunnageError):
    """Right request, wrong moment."""

    code = 9
    suffix = "failed precondition"


class Aborted(DunnageError):
    """Ended half-way by something else."""

    code = 10
    suffix = "aborted"


class OutOfRange(DunnageError):
    """Past the end."""

    code = 11
    suffix = "out of range"


class EndOfStream(OutOfRange):
    """The peer sends no more messages on this stream: the end that was meant."""


class Unimplemented(DunnageError):
    """Not offered here."""

    code = 12
    suffix = "not implemented"


class Internal(DunnageError):
    """An invariant is broken."""

    code = 13
    suffix = "internal"


class Unavailable(DunnageError):
    """The peer cannot be reached now; trying again may help."""

    code = 14
    suffix = "unavailable"


class DataLoss(DunnageError):
    """Something that was kept cannot be read any more."""

    code = 15
    suffix = "data loss"


class Unauthenticated(DunnageError):
    """Who are you?"""

    code = 16
    suffix = "unauthenticated"


class ConnectionClosed(Unavailable):
    """We closed the connection ourselves."""


class ConnectionBroken(Unavailable):
    """The peer, or the world, ended the connection."""


class ProtocolError(DunnageError):
    """A rule of a wire protocol was broken."""


class LocalProtocolError(ProtocolError):
    """This program broke it: a bug in the caller."""

    code = 13
    suffix = "internal"


class RemoteProtocolError(ProtocolError):
    """The peer broke it."""

    code = 3
    suffix = "invalid argument"


def kind_of(
    error: OSError | ValueError, other: type[DunnageError] = Unknown
) -> type[DunnageError]:
    """Return the class of a kernel's refusal: a limit is reached, or else ``other``."""
    is_limit = isinstance(error, OSError) and error.errno in _EXHAUSTED
    return ResourceExhausted if is_limit else other


_BY_CODE: Final[dict[int, type[DunnageError]]] = {
    kind.code: kind
    for kind in (
        Cancelled,
        Unknown,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}


def from_status(code: int, text: str) -> DunnageError:
    """Return the error that a status on the wire stands for, its suffix taken off.

    A code that gRPC does not define becomes `Unknown`.
    """
    kind = _BY_CODE.get(code, Unknown)
    if kind.suffix:
        text = text.removesuffix(f": {kind.suffix}")
    return kind(text)
