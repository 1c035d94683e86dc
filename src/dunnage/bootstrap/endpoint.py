"""Where to reach a shim and in which version: the text forms, and the bundle's copy.

Owns: the JSON and the plain form of an answer to `start`, and the texts of refusal.
Must not know: protobuf; the binary form is in `wire`.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from dunnage.errors import InvalidArgument, Unimplemented

from . import bundle

TTRPC: Final = "ttrpc"
GRPC: Final = "grpc"
# 2: containerd.task.v2.Task, 3: containerd.task.v3.Task.
VERSIONS: Final = (2, 3)


class Endpoint(NamedTuple):
    """An answer to `start`."""

    address: str
    version: int = 2
    protocol: str = TTRPC

    def checked(self) -> Endpoint:
        """Return this endpoint if a manager can make use of it.

        Raises:
            Unimplemented: the version is newer than ours.
            InvalidArgument: the protocol is unknown, or there is no address.
        """
        if self.version > VERSIONS[-1]:
            raise Unimplemented(f"unsupported shim version ({self.version})")
        if self.protocol not in {TTRPC, GRPC}:
            raise InvalidArgument(f'unexpected protocol: "{self.protocol}"')
        if not self.address:
            raise InvalidArgument("the shim said no address")
        return self

    def to_json(self) -> str:
        """Return the content of ``bootstrap.json``."""
        return json.dumps(self._asdict())


def parse_text(text: str) -> Endpoint:
    """Read an answer in one of its text forms: JSON of version 2 or more, or plain.

    It is not checked: see `Endpoint.checked`.
    """
    text = text.strip()
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return Endpoint(text)
    version = fields.get("version") if isinstance(fields, dict) else None
    if type(version) is not int or version < VERSIONS[0]:
        return Endpoint(text)
    return Endpoint(
        address=str(fields.get("address", "")),
        version=version,
        protocol=str(fields.get("protocol", "")),
    )


def write(directory: str, endpoint: Endpoint) -> None:
    """Keep the endpoint in a bundle, for a manager that comes back (daemon, 2.0+).

    Raises:
        OSError: it could not be written.
    """
    bundle.write(directory, bundle.BOOTSTRAP, endpoint.to_json(), mode=0o644)


def read(directory: str) -> Endpoint | None:
    """Return the endpoint that a bundle names, None if it names none.

    ``bootstrap.json`` is the manager's own; ``address`` is what shims up to 1.7, and
    ours, leave there.

    Raises:
        OSError: a file is there and cannot be read.
        Unimplemented, InvalidArgument: as `Endpoint.checked`.
    """
    for name in (bundle.BOOTSTRAP, bundle.ADDRESS):
        if text := bundle.read(directory, name):
            return parse_text(text).checked()
    return None
