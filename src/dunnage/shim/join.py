"""Joining the shim of a group: `start` tells it that a container is coming.

That a shim accepts says little: it may be about to leave, for a Shutdown that it has
not read yet.
So the one that joins calls Connect with a mark in its metadata, and the *answer* is the
promise to stay (see `expected`).
To any other shim it is a plain Connect, which changes nothing.
"""

from __future__ import annotations

import socket
from typing import Final

from dunnage.api.services import TASK_V2
from dunnage.bootstrap import endpoint
from dunnage.errors import Unavailable, Unimplemented
from dunnage.ttrpc.connection import ClientConnection
from dunnage.ttrpc.events import CallFailed

COMING: Final = "dunnage-coming"
"""The key of the metadata; its value means nothing."""
_V2, _V3 = endpoint.VERSIONS
_ANSWER_LIMIT_S: Final = 3.0
_GONE: Final = (
    FileNotFoundError,
    ConnectionRefusedError,
    ConnectionResetError,
    BrokenPipeError,
)


def join(path: str, container_id: str) -> int:
    """Announce a container to the shim that serves ``path``.

    One that is silent for seconds is taken to live: stopped, perhaps, and its
    containers with it.

    Returns:
        The version of the task service that it has: 2, as ours and those before
        containerd 2, or 3 alone; 0 if it will not be there.
    """
    connection = ClientConnection()
    method = TASK_V2.connect
    connection.send_request(
        method.service,
        method.name,
        method.request(id=container_id).SerializeToString(),
        metadata=[(COMING, "")],
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_ANSWER_LIMIT_S)
        try:
            peer.connect(path)
            peer.sendall(connection.data_to_send())
            while data := peer.recv(1 << 16):
                # It can be one event only; an error is an answer, too.
                for event in connection.receive_data(data):
                    return _version(event)
        except _GONE:
            return 0
        except OSError:
            return _V2
    return 0  # it left, and took the connection with it


def _version(answer: object) -> int:
    if isinstance(answer, CallFailed):
        if isinstance(answer.error, Unavailable):
            return 0
        if isinstance(answer.error, Unimplemented):
            return _V3
    return _V2
