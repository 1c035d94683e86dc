"""What the events of a shim were worth: how many are missing, how many out of order."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from dunnage.conformance.oracle import Fault, Rule, judge
from dunnage.conformance.said import Answered, Kind, Said

from .driver import Driver

_Key: TypeAlias = tuple[str, str, Kind]


@dataclass
class Verdict:
    """What one shim has said in the whole run."""

    events: int = 0
    missing: int = 0
    """Events that were never said, those of an exec's delete not counted."""
    exec_deletes: int = 0
    """Deletes of execs that were never said: few shims say any."""
    misordered: int = 0
    """Faults of another kind: said in the wrong order, twice, or wrong."""
    examples: list[str] = field(default_factory=list)

    def asdict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def verdict(driver: Driver) -> Verdict:
    """Judge everything that was heard of a driver's containers."""
    mine = [
        said for said in driver.site.hub.heard if said.namespace == driver.namespace
    ]
    whole = [said for said in mine if said.container_id not in driver.cut]
    cut = [said for said in mine if said.container_id in driver.cut]
    answers = [each for each in driver.answers if each.container_id not in driver.cut]
    missing, deletes = _missing(whole, answers)
    faults = [*judge(whole, answers=answers, is_whole=True), *judge(cut)]
    lost = {key[:2] for key in missing + deletes}
    others = [fault for fault in faults if not _is_about_absence(fault, lost)]
    told = [f"missing: {_text(key)}" for key in missing]
    told += [str(fault) for fault in others]
    return Verdict(len(mine), len(missing), len(deletes), len(others), told[:8])


def _missing(
    stream: list[Said], answers: list[Answered]
) -> tuple[list[_Key], list[_Key]]:
    """Return what every life that was answered for must have, and has not.

    Apart: the deletes of execs.
    """
    there = {(said.container_id, said.exec_id, said.kind) for said in stream}
    missing: list[_Key] = []
    deletes: list[_Key] = []
    for answer in answers:
        first, second = Kind.CREATE, Kind.START
        if answer.exec_id:
            first, second = Kind.EXEC_ADDED, Kind.EXEC_STARTED
        for kind in (first, second, Kind.EXIT, Kind.DELETE):
            key = (answer.container_id, answer.exec_id, kind)
            if key not in there:
                is_delete = bool(answer.exec_id) and kind is Kind.DELETE
                (deletes if is_delete else missing).append(key)
    return missing, deletes


def _is_about_absence(fault: Fault, lost: set[tuple[str, str]]) -> bool:
    """Whether a fault follows from what is missing, which is counted by itself."""
    if fault.rule is Rule.ANSWERS:
        container_id, _, exec_id = fault.text.partition(":")[0].partition("/")
        return (container_id, exec_id) in lost
    texts = ("was not deleted before", "its exit was not said", "has not exited")
    return fault.rule is Rule.WHOLE or any(text in fault.text for text in texts)


def _text(key: _Key) -> str:
    container_id, exec_id, kind = key
    return f"{kind} of {container_id} {exec_id}".strip()
