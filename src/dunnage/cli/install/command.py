"""Puts the launcher where containerd finds it, takes it away, and tells how it stands.

Owns: what is refused, and what is said.
Must not know: how a program is tried, or a link is put.

What stands in the stock shim's place is called for containers of the stock shim, too:
its ``delete`` buries them, its ``start`` lets others join their pods.
Ours does both, and the stock shim does it for ours; so neither way needs the containers
to go first (``tests/peers/test_install.py`` changes over under running ones).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from dunnage import __version__
from dunnage.bootstrap import bundle
from dunnage.errors import DunnageError, FailedPrecondition

from . import configs, packages, programs, running
from .links import Place

LOCAL: Final = "/usr/local/bin"
_SHOWN: Final = 5
_TRY: Final = f"  ctr run --rm --runtime {configs.RUNTIME} IMAGE NAME\n"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for."""

    into: str = ""
    """The directory; empty: where containerd looks."""
    as_stock: bool = False
    is_dry: bool = False
    is_forced: bool = False


def install(wanted: Wanted) -> int:
    """Put the links there, and say what is left to do.

    Raises:
        FailedPrecondition: it cannot serve here, or would break what runs.
    """
    launcher = programs.launcher()
    _expect_fit(launcher)
    daemons = running.daemons()
    places = _places(wanted, daemons)
    if not wanted.is_forced:
        for place in places:
            _expect_free(place, launcher)
    was_taken = places[-1].is_taken()
    for place in places:
        _put(place, launcher, is_dry=wanted.is_dry)
    if not wanted.is_dry:
        _tell(places, daemons, was_taken=was_taken)
    return 0


def uninstall(wanted: Wanted) -> int:
    """Take the links away, and put back what was kept.

    Raises:
        FailedPrecondition: containers that run would be lost.
    """
    places = [place for place in _everywhere(wanted) if _is_ours(place)]
    if not places:
        print("nothing is installed")
        return 0
    for place in places:
        served = running.served_through(place.path)
        if served and not place.has_kept() and not wanted.is_forced:
            raise FailedPrecondition(
                f"{_some(served)} were started through {place.path}: without it, "
                "containerd forgets them when it is restarted, and cannot clean up "
                "after them; remove them first (--force does not care)"
            )
    for place in places:
        if place.is_taken() and place.target() is None:
            what = f"is not ours any more; {place.kept} is dropped"
        else:
            what = "is what it was before" if place.has_kept() else "is removed"
        print(f"{_dry(wanted.is_dry)}{place.path} {what}")
        if not wanted.is_dry:
            place.restore()
        if packages.goes_to(place.path) == place.kept:
            print(f"  to end the diversion: {packages.undivert(place.path)}")
    if any(not place.is_taken() for place in places) and running.daemons():
        print("a containerd that runs may still look for it there, until restarted")
    return 0


@dataclass(slots=True)
class _Report:
    """Lines of a check."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(wanted: Wanted) -> int:
    """Say how things are; 0 if it is installed and current, else 1."""
    report = _Report()
    _check_places(wanted, report)
    for line in report.notes:
        print(line)
    for line in report.problems:
        print(f"PROBLEM: {line}")
    return 1 if report.problems else 0


# -- install


def _expect_fit(launcher: str) -> None:
    """Expect this installation to work for whoever has nothing of our environment."""
    try:
        version = programs.version(launcher)
    except OSError as error:
        raise FailedPrecondition(f"{launcher}: {error.strerror}") from error
    except FailedPrecondition as error:
        raise FailedPrecondition(f"it cannot serve here: {error.message}") from error
    if version != __version__:
        raise FailedPrecondition(
            f"{launcher} is of version {version or 'unknown'}, and this is "
            f"{__version__}: install the package again"
        )


def _places(wanted: Wanted, daemons: Sequence[running.Daemon]) -> list[Place]:
    names = [os.path.join(_absolute(wanted.into) or LOCAL, programs.OURS)]
    if wanted.as_stock:
        directory = _absolute(wanted.into) or _stock_directory(daemons)
        names.append(os.path.join(directory, programs.STOCK))
    return [Place(name) for name in names]


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else ""


def _stock_directory(daemons: Sequence[running.Daemon]) -> str:
    """Return where the stock shim is found.

    Raises:
        FailedPrecondition: that depends on who looks.
    """
    looked: list[Sequence[str]] = [daemon.directories for daemon in daemons]
    found = {
        first
        for directories in looked or [programs.DEFAULT_PATH.split(":")]
        if (first := _first_with(programs.STOCK, directories))
    }
    if len(found) > 1:
        raise FailedPrecondition(
            f"there is a stock shim in {' and in '.join(sorted(found))}: "
            "say which by --into"
        )
    return found.pop() if found else LOCAL


def _first_with(name: str, directories: Sequence[str]) -> str:
    return next((d for d in directories if os.path.lexists(os.path.join(d, name))), "")


def _expect_free(place: Place, launcher: str) -> None:
    """Expect a place that may be taken.

    Raises:
        FailedPrecondition: it may not.
    """
    if not place.is_taken() or place.target() or place.leads_to(launcher):
        return
    if os.path.basename(place.path) != programs.STOCK:
        raise FailedPrecondition(
            f"{place.path} is there, and no link of ours (--force puts it aside)"
        )
    # Our `delete` knows a container by what the Go shim writes, too.
    strange = [
        path
        for path in running.served_through(place.path)
        if not os.path.exists(f"{path}/{bundle.OPTIONS}")
    ]
    if strange:
        raise FailedPrecondition(
            f"{_some(strange)} were started through {place.path} by a shim that leaves "
            f"no {bundle.OPTIONS}: ours could not clean up after it; remove them first "
            "(--force does not care)"
        )


def _put(place: Place, launcher: str, *, is_dry: bool) -> None:
    """Put one link, and say so."""
    if place.leads_to(launcher):
        print(f"{place.path} is there")
        return
    keeps = place.is_taken() and place.target() is None
    if not is_dry:
        try:
            place.put(launcher)
        except FailedPrecondition as error:
            raise FailedPrecondition(
                f"{error.message}; {_otherwise(launcher)}"
            ) from error
    print(f"{_dry(is_dry)}{place.path} -> {launcher}")
    if keeps:
        print(f"  what stood there is kept as {place.kept}")


def _dry(is_dry: bool) -> str:  # noqa: FBT001
    return "(dry run) " if is_dry else ""


def _otherwise(launcher: str) -> str:
    return (
        "say --into DIR, a directory of containerd's PATH, or do without: a runtime "
        f"may be named by its path (ctr --runtime {launcher}, runtime_type and "
        "runtimeType in the configurations)"
    )


def _tell(
    places: Sequence[Place], daemons: Sequence[running.Daemon], *, was_taken: bool
) -> None:
    """Say what is left to do."""
    for place in places:
        for line in _upgrades(place):
            print(line)
    for daemon in daemons:
        for place in places:
            print(_seen(daemon, place)[1])
    if len(places) == 1:
        print(_advice(daemons))
    elif daemons and not was_taken:
        print(
            "a containerd that has found a shim elsewhere looks again when restarted; "
            "containers live on"
        )


def _upgrades(place: Place) -> Iterator[str]:
    """Say what an upgrade of the stock shim's package would do."""
    package = packages.owner(place.path) if place.has_kept() else ""
    if package and packages.goes_to(place.path) != place.kept:
        yield (
            f"  it belongs to the package {package}, whose next upgrade puts the stock "
            "shim back; to have it go to the kept file:"
        )
        yield f"    {packages.divert(place.path, place.kept)}"


def _seen(daemon: running.Daemon, place: Place) -> tuple[bool, str]:
    """Tell whether a daemon finds what was put, and say what it finds."""
    name = os.path.basename(place.path)
    found = daemon.find(name)
    if not daemon.is_there():
        return False, f"{daemon} has ended"
    if found is None:
        return False, (
            f"{daemon} does not find {name}: it looks in "
            f"{', '.join(daemon.directories)}; say --into one of these, or add "
            f"{place.directory} to its PATH (systemctl edit containerd: [Service] "
            "Environment=PATH=…)"
        )
    if found.problem:
        return False, f"{daemon} cannot run it: {found.problem}"
    if not running.is_same(found.path, place.path) or found.version != __version__:
        whose = f"dunnage {found.version}" if found.version else "another's"
        return False, f"{daemon} finds {found.path}, which is {whose}, first"
    return True, f"{daemon} finds {found.path}"


def _advice(daemons: Sequence[running.Daemon]) -> str:
    version = next(
        (v for d in daemons if (v := configs.version_of(d.read_config()))), 0
    )
    parts = [f"\nfor containerd itself there is nothing to configure:\n{_TRY}"]
    for known, whose in ((2, "1.x (version = 2)"), (3, "2.x (version = 3)")):
        if version in {0, known} or (version == 1 and known == 2):
            parts.append(
                f"for Kubernetes, /etc/containerd/config.toml of containerd {whose}:\n"
                f"{configs.containerd(1 if version == 1 else known)}"
            )
    parts += [
        f"and a RuntimeClass:\n{configs.RUNTIME_CLASS}",
        f"for Docker, a shorter name in {configs.DAEMON_JSON}:\n{configs.docker()}",
    ]
    return "\n".join(parts).rstrip()


# -- uninstall and check


def _everywhere(wanted: Wanted) -> list[Place]:
    """Return all places at which something of ours may be."""
    directories = [LOCAL]
    for daemon in running.daemons():
        directories += daemon.directories
    directories += programs.DEFAULT_PATH.split(":")
    if wanted.into:
        directories = [_absolute(wanted.into)]
    # Where /bin is /usr/bin, it is one place.
    real = {os.path.realpath(path): path for path in reversed(directories)}
    return [
        Place(os.path.join(directory, name))
        for directory in reversed(real.values())
        for name in (programs.OURS, programs.STOCK)
    ]


def _is_ours(place: Place) -> bool:
    """Tell whether this installation has put something there."""
    target = place.target()
    if target is None:
        return place.has_kept()
    return place.leads_to(programs.launcher()) or not os.path.exists(target)


def _check_places(wanted: Wanted, report: _Report) -> None:
    launcher = programs.launcher()
    places = [p for p in _everywhere(wanted) if p.target() or p.has_kept()]
    good = [place for place in places if _is_good(place, launcher, report)]
    needed = [programs.OURS] + [programs.STOCK] * wanted.as_stock
    for name in needed:
        # pip may have put the launcher itself where containerd looks.
        own = Place(launcher)
        mine = [p for p in good if os.path.basename(p.path) == name]
        if not mine and name == programs.OURS and own.directory in _looked_in(wanted):
            good.append(own)
        elif not mine and not any(os.path.basename(p.path) == name for p in places):
            report.problems.append(f"{name} is not installed: dunnage install does it")
    _check_daemons(good, report)
    for daemon in running.daemons():
        names = configs.named_in_containerd(daemon.read_config())
        if names:
            report.notes.append(f"{daemon.config} names it {', '.join(names)}")
    if names := configs.named_in_docker(running.read(configs.DAEMON_JSON)):
        report.notes.append(f"{configs.DAEMON_JSON} names it {', '.join(names)}")


def _looked_in(wanted: Wanted) -> set[str]:
    return {place.directory for place in _everywhere(wanted)}


def _is_good(place: Place, launcher: str, report: _Report) -> bool:
    """Look at one place; whether it does what it shall."""
    target = place.target()
    if target is None:
        report.problems.append(
            f"{place.path} is not ours any more, though what was there before is kept "
            "(an upgrade?): dunnage install --as-stock, or dunnage uninstall"
        )
        return False
    try:
        version = programs.version(place.path)
    except FileNotFoundError:
        report.problems.append(f"{place.path} leads to {target}, which is gone")
    except OSError as error:
        report.problems.append(f"{place.path}: {error.strerror}")
    except DunnageError as error:
        report.problems.append(error.message)
    else:
        if version == __version__:
            other = "" if place.leads_to(launcher) else " (of another installation)"
            report.notes.append(f"{place.path} -> {target}, {version}{other}")
            report.notes += _upgrades(place)
            return True
        report.problems.append(
            f"{place.path} is of version {version or 'unknown'}, and this is "
            f"{__version__}: dunnage install does it"
        )
    return False


def _check_daemons(places: Sequence[Place], report: _Report) -> None:
    """See whether any daemon finds each; one that is not meant need not."""
    daemons = running.daemons()
    if places and not daemons:
        report.notes.append("no containerd runs: whether it looks there was not tried")
    for place in places if daemons else ():
        seen = [_seen(daemon, place) for daemon in daemons]
        is_found = any(found for found, _ in seen)
        lines = [text for found, text in seen if found or not is_found]
        (report.notes if is_found else report.problems).extend(lines)


def _some(bundles: Sequence[str]) -> str:
    """Name containers by namespace and id, a few of them."""
    names = ["/".join(path.rsplit("/", 2)[-2:]) for path in bundles]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
