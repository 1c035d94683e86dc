"""Where a shim listens, and which containers share one.

Owns: the name of the socket, the annotations that group, how an address is read.
Must not know: sockets.

Invariant (cold-start): nothing is imported here but ``os``, ``sys`` and a bare SHA-256.
"""

from __future__ import annotations

import sys
from os.path import normpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

DEFAULT_DIRECTORY: Final = "/run/containerd/s"

# sockaddr_un has 108 bytes, the last one is the terminator.
SUN_PATH_LIMIT_BYTES: Final = 107

# The first of these that a container has names its group.
GROUP_ANNOTATIONS: Final = (
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
)

_UNIX: Final = "unix://"


def group_id(annotations: Mapping[str, str], own_id: str) -> str:
    """Return what a container shares its shim by: its group's name or its own id.

    An empty annotation is no group; the reference would put every such container of a
    namespace into one shim.

    Raises:
        InvalidArgument: the name climbs out of the namespace (``../other/id``).
    """
    for name in GROUP_ANNOTATIONS:
        if group := annotations.get(name, ""):
            if ".." in group.split("/"):
                from dunnage.errors import InvalidArgument

                raise InvalidArgument(f"annotation {name}: {group!r} has '..' in it")
            return group
    return own_id


def socket_address(
    grpc_address: str,
    namespace: str,
    group: str,
    *,
    directory: str = "",
    debug: bool = False,
) -> str:
    """Return the address of the shim that serves ``group``; ``unix://`` and a path.

    The name is the reference's, so that a shim of ours meets one of its own kind
    whichever daemon (or daemon's version) starts it.

    Raises:
        InvalidArgument: ``directory`` is relative or too long for a socket in it.
    """
    parts = [grpc_address, namespace, group] + (["debug"] if debug else [])
    digest = _sha256_hex(_join(parts).encode("utf-8", "surrogateescape"))
    path = _join([directory or DEFAULT_DIRECTORY, digest])
    excess = len(path.encode("utf-8", "surrogateescape")) - SUN_PATH_LIMIT_BYTES
    if excess > 0 or not path.startswith("/"):
        from dunnage.errors import InvalidArgument

        raise InvalidArgument(
            f"socket directory {directory!r} is {excess} bytes too long"
            if excess > 0
            else f"socket directory {directory!r} is not an absolute path"
        )
    return _UNIX + path


def unix_name(address: str) -> str:
    """Return what to bind or connect a unix socket to, for an address as said.

    Without a scheme it is the name of an abstract socket (shims before 1.3.9), which
    starts with NUL.

    Raises:
        InvalidArgument: nothing is there to connect to.
        Unimplemented: the scheme is another one (vsock, hvsock).
    """
    scheme, separator, path = address.partition("://")
    if separator and scheme == "unix" and path:
        return path
    if address and not separator:
        return "\0" + address
    from dunnage.errors import InvalidArgument, Unimplemented

    if separator and scheme != "unix":
        raise Unimplemented(f"address {address!r}: scheme {scheme!r}")
    raise InvalidArgument(f"address {address!r} names no socket")


def _join(parts: list[str]) -> str:
    """Join and clean a path as Go does: what is empty does not count."""
    path = normpath("/".join(part for part in parts if part))
    # POSIX lets two leading slashes stand; Go does not.
    return path[1:] if path.startswith("//") else path


def _sha256_hex(data: bytes) -> str:
    # hashlib loads OpenSSL: 2.5 ms that the thin client has a better use for. The bare
    # module has one name in Python 3.11 and another from 3.12 on; some builds lack it.
    bare = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
    module = _maybe_import(bare) or __import__("hashlib")
    digest: str = module.sha256(data).hexdigest()
    return digest


def _maybe_import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None
