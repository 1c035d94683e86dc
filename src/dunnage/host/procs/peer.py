"""Which process is at the other end of a unix connection.

SO_PEERCRED does not say: for whoever connects it names the process that called
listen(2), and a shim inherits its listener from a helper that is gone.
The kernel's socket diagnosis names the other end's inode, and who has that among its
descriptors is the peer.

Owns: that proof.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from typing import Final

# linux/sock_diag.h, linux/unix_diag.h; the module `socket` does not have them.
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_UDIAG_SHOW_PEER: Final = 4
_UNIX_DIAG_PEER: Final = 2
_ANY: Final = 0xFFFFFFFF

# nlmsghdr; unix_diag_req: family, protocol, pad, states, inode, show, cookie.
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBHIIIII")
# unix_diag_msg: family, type, state, pad, inode, cookie.
_ANSWER: Final = struct.Struct("=BBBBIII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_INODE: Final = struct.Struct("=I")
_ANSWER_BYTES: Final = 4096
_ANSWER_LIMIT_S: Final = 1.0


def maybe_peer(connection_fd: int, pid: int) -> int | None:
    """Return a pidfd of the process, if it is at the other end of our connection.

    None also if that cannot be proven: it is gone, in another pid namespace, not to be
    looked at by us, or the kernel has no socket diagnosis.
    """
    try:
        process_fd = os.pidfd_open(pid)
    except (OSError, OverflowError):  # what a peer says is any number
        return None
    try:
        inode = _peer_inode(connection_fd)
        is_peer = inode is not None and _has_socket(pid, inode)
    except OSError:
        is_peer = False
    # It still lives: what we looked at was it, and nobody who got its pid since.
    if is_peer and not _is_over(process_fd):
        return process_fd
    os.close(process_fd)
    return None


def _peer_inode(connection_fd: int) -> int | None:
    """Ask the kernel for the inode of the other end of a connection."""
    inode = os.fstat(connection_fd).st_ino & _ANY
    request = _REQUEST.pack(
        socket.AF_UNIX, 0, 0, _ANY, inode, _UDIAG_SHOW_PEER, _ANY, _ANY
    )
    header = _HEADER.pack(
        _HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0
    )
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_LIMIT_S)
        kernel.send(header + request)
        answer = kernel.recv(_ANSWER_BYTES)
    length, type_, *_ = _HEADER.unpack_from(answer)
    if type_ != _SOCK_DIAG_BY_FAMILY:
        return None
    at = _HEADER.size + _ANSWER.size
    while at + _ATTRIBUTE.size <= length:
        size, name = _ATTRIBUTE.unpack_from(answer, at)
        if name == _UNIX_DIAG_PEER:
            found: int = _INODE.unpack_from(answer, at + _ATTRIBUTE.size)[0]
            return found or None
        # At least its header; the next one begins at a multiple of four.
        at += max(_ATTRIBUTE.size, (size + 3) & ~3)
    return None


def _has_socket(pid: int, inode: int) -> bool:
    directory = f"/proc/{pid}/fd"
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"{directory}/{name}") == f"socket:[{inode}]":
                return True
    return False


def _is_over(process_fd: int) -> bool:
    poll = select.poll()
    poll.register(process_fd, select.POLLIN)
    return bool(poll.poll(0))
