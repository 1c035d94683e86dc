"""Where the manager keeps what it keeps.

Owns: the layout below the state directory and the persistent directory.
Must not know: what is in the files.

State is a tmpfs that a reboot empties; what is below root survives one::

    <state>/task/<namespace>/<id>/    a bundle
    <state>/events/<namespace>.log    the log of events, and the lock of its receiver
    <state>/<namespace>.sock.ttrpc    where the receiver takes events
    <state>/runc/                     the OCI runtime's own state
    <state>/fifo/<random>/            the streams of one process
    <root>/task/<namespace>/<id>/     a work directory
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dunnage.bootstrap import identifiers
from dunnage.bootstrap.address import SUN_PATH_LIMIT_BYTES
from dunnage.errors import InvalidArgument

STATE: Final = "/run/dunnage"
ROOT: Final = "/var/lib/dunnage"

# Others may pass through, as in containerd's; what is inside closes itself.
PASSAGE_MODE: Final = 0o711


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of one namespace."""

    state: Path
    root: Path
    namespace: str

    @classmethod
    def make(cls, namespace: str, state: str = "", root: str = "") -> Places:
        """Return the places of a namespace; what is empty comes from the environment.

        Raises:
            InvalidArgument: the namespace is no identifier, or the socket in it would
                have a longer name than the kernel takes.
        """
        identifiers.validate("namespace", namespace)
        chosen_state = state or os.environ.get("DUNNAGE_STATE") or STATE
        chosen_root = root or os.environ.get("DUNNAGE_ROOT") or ROOT
        places = cls(
            Path(chosen_state).absolute(), Path(chosen_root).absolute(), namespace
        )
        excess = len(os.fsencode(places.events_socket)) - SUN_PATH_LIMIT_BYTES
        if excess > 0:
            raise InvalidArgument(
                f"{places.events_socket} is {excess} bytes too long for a socket"
            )
        return places

    @property
    def bundles(self) -> Path:
        """The parent of the bundles."""
        return self.state / "task" / self.namespace

    @property
    def works(self) -> Path:
        """The parent of the work directories."""
        return self.root / "task" / self.namespace

    @property
    def event_log(self) -> Path:
        """The file that events are kept in."""
        return self.state / "events" / f"{self.namespace}.log"

    @property
    def address(self) -> str:
        """What shims are told as the address of their daemon; nobody listens there."""
        return str(self.state / f"{self.namespace}.sock")

    @property
    def events_socket(self) -> str:
        """Where events are taken: the address with the ending that shims expect."""
        return f"{self.address}.ttrpc"

    @property
    def runtime_root(self) -> Path:
        """Where the OCI runtime keeps its state.

        Not the default one: there, a container of a containerd on this machine with
        the same namespace and id would be taken for ours.
        """
        return self.state / "runc"

    @property
    def cgroup(self) -> str:
        """The parent of the containers' cgroups, from the root of a hierarchy."""
        return f"/dunnage/{self.namespace}"

    @property
    def fifos(self) -> Path:
        """The parent of the directories of fifos."""
        return self.state / "fifo"


def make_passage(path: Path) -> None:
    """Make a directory and its parents, which anybody may pass through."""
    for parent in (*reversed(path.parents), path):
        parent.mkdir(mode=PASSAGE_MODE, exist_ok=True)
