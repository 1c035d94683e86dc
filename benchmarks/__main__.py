"""Measures shims: see script/bench."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from . import report, results, subjects
from .options import Options, parse
from .run import Run
from .site import Site


def main() -> int:
    """Run, and return the exit status: 1 if ours failed or lost an event."""
    options = parse(sys.argv[1:])
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _leave)
    with Site(options.runtime) as site:
        try:
            wanted = _subjects(options, site)
        except ValueError as error:
            _progress(str(error))
            return 2
        if options.trace:
            from .trace import draw

            draw(site, wanted, options.trace)
            return 0
        found = Run(site, wanted, options, _progress).all()
    print(report.table(found))
    if options.json:
        results.write(found, options.json)
    if options.docs:
        from .plots import plots

        options.docs.mkdir(parents=True, exist_ok=True)
        names = plots(found, options.docs)
        (options.docs / "README.md").write_text(report.page(found, names))
        results.write(found, options.docs / "results.json")
    faults = found.faults(each.name for each in wanted if each.is_ours)
    for fault in faults:
        _progress(fault)
    _progress(f"took {found.seconds:.0f} s")
    return 1 if faults else 0


def _subjects(options: Options, site: Site) -> list[subjects.Subject]:
    known = subjects.chosen(subjects.known(site.forkservers), options.shims)
    return known + [subjects.named(text, site.forkservers) for text in options.others]


def _progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _leave(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
