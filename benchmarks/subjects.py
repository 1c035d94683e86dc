"""Which shims are measured: ours, the stock ones, and any other that is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

PEERS: Final = Path(
    os.environ.get("DUNNAGE_PEERS", Path(__file__).parents[1] / ".peers")
)
OURS: Final = Path(sys.executable).parent / "containerd-shim-dunnage-v2"
REFERENCE: Final = "go-2.3"
"""The shim that the others are compared with."""

FORKSERVER: Final = "DUNNAGE_FORKSERVER"
COLD: Final = {FORKSERVER: "off"}


@dataclass(frozen=True)
class Subject:
    """One shim that is measured, and in what way."""

    name: str
    binary: Path
    environment: dict[str, str] = field(default_factory=dict)
    absent: str = ""
    """Why it cannot be measured; empty if it can."""

    @property
    def is_ours(self) -> bool:
        """Whether it is ours: then nothing that it says may be lost."""
        return self.name.startswith("dunnage")


def known(forkserver: Path) -> list[Subject]:
    """Return the shims that are measured if nobody says otherwise.

    Args:
        forkserver: the directory of this run's fork servers.
    """
    warm = "" if find_spec("dunnage.shim.forkserver") else "there is no fork server yet"
    own = {FORKSERVER: str(forkserver / "dunnage")}
    return [
        _peer("go-1.6", "containerd-1.6/usr/bin/containerd-shim-runc-v2"),
        _peer(REFERENCE, "containerd-2.3/usr/bin/containerd-shim-runc-v2"),
        _peer("rust-0.2", "rust-shim/usr/bin/containerd-shim-runc-v2-rs"),
        Subject("dunnage", OURS, own, absent=warm),
        Subject("dunnage-cold", OURS, COLD),
    ]


def named(text: str, forkserver: Path) -> Subject:
    """Return the shim of a ``NAME=PATH``.

    A name that begins with "dunnage" is one of ours: with "cold" in it, without a
    fork server; else with one, which it shares with no other name.

    Raises:
        ValueError: it is no such text, or no such file.
    """
    name, _, path = text.partition("=")
    binary = Path(path).absolute()
    if not (name and path):
        raise ValueError(f"{text!r} is not NAME=PATH")
    if not os.access(binary, os.X_OK) or binary.is_dir():
        raise ValueError(f"{path} is no program")
    if not name.startswith("dunnage"):
        return Subject(name, binary)
    warm = {FORKSERVER: str(forkserver / name)}
    return Subject(name, binary, COLD if "cold" in name else warm)


def chosen(all_of_them: Iterable[Subject], names: Iterable[str]) -> list[Subject]:
    """Return the subjects of these names, or all if there are no names.

    Raises:
        ValueError: nobody has one of the names.
    """
    by_name = {subject.name: subject for subject in all_of_them}
    try:
        return [by_name[name] for name in names] or list(by_name.values())
    except KeyError as error:
        raise ValueError(
            f"no shim is called {error.args[0]}: there are {', '.join(by_name)}"
        ) from None


def _peer(name: str, program: str) -> Subject:
    path = PEERS / program
    peer = program.partition("/")[0]
    absent = "" if path.exists() else f"script/peers {peer} has not brought it"
    return Subject(name, path, absent=absent)
