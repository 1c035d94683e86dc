"""What works under which peer, as a page: written by the tests that tried it.

script/test tests/peers --compatibility docs/compatibility.md
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.peers.daemon import OLDEST

FEATURE: Final = "feature"
_PEER: Final = "peer"
_WORKS, _FAILS, _UNTRIED = "yes", "**no**", "–"
_HEAD: Final = """\
# Compatibility

Written by `script/test tests/peers --compatibility docs/compatibility.md`.
Each mark is what tests against that program itself came to: yes if all have passed.

"""
_NOTES: Final = """
## What meets the shim on its way to the runtime

| what | what becomes of it |
| --- | --- |
| NRI | passes through: containerd adjusts the spec before the shim sees it |
| CDI devices | pass through: they are in the spec |
| SELinux and AppArmor labels | pass through: the runtime sets them |
| seccomp profiles | pass through: the runtime sets them |
| hooks of the spec | pass through: the runtime calls them |
| what the runtime can do | told by `-info`; containerd's CRI (2.0 and later) asks \
only where the runtime's type is `io.containerd.runc.v2`: pods with user namespaces or \
recursive read-only mounts want the shim in the stock one's place |
| OTEL_… in the environment | ignored: a shim traces nothing; the runtime inherits it |
| `ttrpc+unix://` and other strange streams | refused: an unknown STDIO scheme |
| a pod whose shim was killed, under containerd 2.3 | it calls `delete` for the \
sandbox alone: cgroups and runtime state of the containers stay, for which nobody is \
asked (under the stock shim the pod cannot be removed at all) |

## Tried by hand

| what | when | what came of it |
| --- | --- | --- |
| critest 1.34, containerd 2.1 (`script/peers cri-tools` brings it), without the \
images that it would fetch and without iptables | 2026-11-29 | in the stock shim's \
place 68 tests pass, and those 17 fail that fail under the stock shim; under our own \
name 64 pass, as no recursive read-only mounts are tried |
| kubelet 1.34 without a cluster, a static pod: restarts, liveness probes by exec, \
OOMKilled, an orderly end | 2026-11-29 | as under the stock shim; nothing is left |
| Docker 28 of Debian unstable: `tests/peers/test_docker.py` | 2026-11-29 | all pass |
"""


class _Outcome(NamedTuple):
    feature: str
    peer: str
    passed: bool


def page(outcomes: Iterable[_Outcome]) -> str:
    """Return the page, in Markdown."""
    found = list(outcomes)
    peers = sorted({outcome.peer for outcome in found})
    rows = [f"| | {' | '.join(peers)} |", "| --- |" + " :-: |" * len(peers)]
    for feature in dict.fromkeys(outcome.feature for outcome in found):
        marks = []
        for peer in peers:
            here = [o.passed for o in found if (o.feature, o.peer) == (feature, peer)]
            marks.append((_WORKS if all(here) else _FAILS) if here else _UNTRIED)
        rows.append(f"| {feature} | {' | '.join(marks)} |")
    return _HEAD + "\n".join(rows) + "\n" + _NOTES


class Recorder:
    """Notes what became of each test that is marked with features."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: list[_Outcome] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the order of the files, so that the page has it."""
        for item in items:
            given = getattr(item, "callspec", None)
            named = item.get_closest_marker("peer")
            peer = given.params.get("containerd") if given else None
            peer = named.args[0] if named else peer
            for mark in item.iter_markers(FEATURE):
                for feature in mark.args:
                    item.user_properties.append((FEATURE, feature))
            item.user_properties.append((_PEER, peer or OLDEST))
        items.sort(key=lambda item: (str(item.path), item.location[1] or 0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome; a test that could not even begin has failed."""
        if report.skipped or (report.when != "call" and report.passed):
            return
        told = dict(report.user_properties)
        features = [value for key, value in report.user_properties if key == FEATURE]
        for feature in features:
            outcome = _Outcome(str(feature), str(told[_PEER]), report.passed)
            self._outcomes.append(outcome)

    def pytest_sessionfinish(self) -> None:
        """Write the page."""
        self._path.write_text(page(self._outcomes))
