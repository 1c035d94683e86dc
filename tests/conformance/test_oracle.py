"""Twin of dunnage.conformance.oracle: it forgives nothing, and invents nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.conformance.oracle import Fault, Rule, judge
from dunnage.conformance.said import Answered, Kind, Said

from .streams import CONTAINER, FULL, GOOD, RESTORED, SECOND_NS, UNSTARTED, say, stamped

Plant: TypeAlias = Callable[[list[Said]], list[Said]]


def at(kind: Kind, id_: str | None = None) -> int:
    """Return where the full stream says an event."""
    return next(i for i, s in enumerate(FULL) if s.kind is kind and id_ in {None, s.id})


def moved(kind: Kind, id_: str | None, before: int) -> Plant:
    """Say one event earlier or later: in front of what stands at ``before``."""

    def plant(stream: list[Said]) -> list[Said]:
        index = at(kind, id_)
        said = stream.pop(index)
        stream.insert(before if before < index else before - 1, said)
        return stamped(stream)

    return plant


def dropped(kind: Kind, id_: str | None = None) -> Plant:
    """Leave one event out."""

    def plant(stream: list[Said]) -> list[Said]:
        del stream[at(kind, id_)]
        return stream

    return plant


def twice(kind: Kind, id_: str | None = None) -> Plant:
    """Say one event again at once."""

    def plant(stream: list[Said]) -> list[Said]:
        stream.insert(at(kind, id_), stream[at(kind, id_)])
        return stream

    return plant


def changed(kind: Kind, id_: str | None = None, /, **fields: Any) -> Plant:
    """Say one event with other fields."""

    def plant(stream: list[Said]) -> list[Said]:
        index = at(kind, id_)
        stream[index] = replace(stream[index], **fields)
        return stream

    return plant


INIT_EXIT = at(Kind.EXIT, CONTAINER)
END = len(FULL)

LATE_START: dict[str, Any] = {
    "kind": Kind.EXEC_STARTED,
    "pid": 9,
    "topic": "/tasks/exec-started",
}

# The rule that must be named, and what is done to the full stream.
PLANTED: list[tuple[Rule, Plant]] = [
    (Rule.ENVELOPE, changed(Kind.START, topic="/tasks/exit")),
    (Rule.ENVELOPE, changed(Kind.OOM, topic="/tasks/?")),
    (Rule.ENVELOPE, changed(Kind.START, namespace="")),
    (Rule.ENVELOPE, changed(Kind.CREATE, container_id="")),
    (Rule.ENVELOPE, changed(Kind.PAUSED, at_ns=None)),
    (Rule.ENVELOPE, changed(Kind.EXIT, CONTAINER, id="")),
    (Rule.ENVELOPE, changed(Kind.EXEC_ADDED, "never", id="")),
    (Rule.CREATE_FIRST, dropped(Kind.CREATE)),
    (Rule.CREATE_FIRST, moved(Kind.START, None, 0)),
    (Rule.CREATE_FIRST, moved(Kind.EXEC_ADDED, "e", 0)),
    (Rule.CREATE_FIRST, moved(Kind.OOM, None, 0)),
    (Rule.CREATE_FIRST, moved(Kind.DELETE, "", 0)),
    (Rule.SAID_ONCE, twice(Kind.CREATE)),
    (Rule.SAID_ONCE, twice(Kind.START)),
    (Rule.SAID_ONCE, twice(Kind.EXEC_ADDED)),
    (Rule.SAID_ONCE, twice(Kind.EXEC_STARTED)),
    (Rule.SAID_ONCE, twice(Kind.EXIT, "e")),
    (Rule.SAID_ONCE, twice(Kind.EXIT, CONTAINER)),
    (Rule.SAID_ONCE, twice(Kind.DELETE, "e")),
    (Rule.SAID_ONCE, twice(Kind.DELETE, "never")),
    (Rule.SAID_ONCE, twice(Kind.DELETE, "")),
    (Rule.EXIT_AFTER_START, moved(Kind.EXIT, "e", at(Kind.EXEC_STARTED))),
    (Rule.EXIT_AFTER_START, moved(Kind.EXIT, CONTAINER, at(Kind.START))),
    (Rule.EXIT_AFTER_START, dropped(Kind.EXEC_STARTED)),
    (Rule.EXIT_AFTER_START, moved(Kind.START, None, INIT_EXIT + 1)),
    (Rule.ADDED_FIRST, dropped(Kind.EXEC_ADDED, "e")),
    (Rule.ADDED_FIRST, dropped(Kind.EXEC_ADDED, "never")),
    (Rule.ADDED_FIRST, moved(Kind.EXEC_STARTED, "e", at(Kind.EXEC_ADDED))),
    (Rule.INIT_EXITS_LAST, moved(Kind.EXIT, "e", INIT_EXIT + 1)),
    (Rule.INIT_EXITS_LAST, dropped(Kind.EXIT, "e")),
    (Rule.INIT_EXITS_LAST, moved(Kind.EXEC_ADDED, "never", INIT_EXIT + 1)),
    (Rule.INIT_EXITS_LAST, changed(Kind.DELETE, "never", **LATE_START)),
    (Rule.INIT_EXITS_LAST, moved(Kind.PAUSED, None, INIT_EXIT + 1)),
    (Rule.INIT_EXITS_LAST, moved(Kind.RESUMED, None, INIT_EXIT + 1)),
    (Rule.INIT_EXITS_LAST, moved(Kind.CHECKPOINTED, None, INIT_EXIT + 1)),
    (Rule.OOM_BEFORE_EXIT, moved(Kind.OOM, None, INIT_EXIT + 1)),
    (Rule.DELETE_AFTER_EXIT, dropped(Kind.EXIT, "e")),
    (Rule.DELETE_AFTER_EXIT, dropped(Kind.EXIT, CONTAINER)),
    (Rule.DELETE_AFTER_EXIT, moved(Kind.DELETE, "e", at(Kind.EXIT, "e"))),
    (Rule.DELETE_LAST, dropped(Kind.DELETE, "never")),
    (Rule.DELETE_LAST, moved(Kind.DELETE, "e", END)),
    (Rule.DELETE_LAST, moved(Kind.OOM, None, END)),
    (Rule.DELETE_LAST, moved(Kind.EXIT, "e", at(Kind.DELETE, "e") + 1)),
    (Rule.PAUSED_RUNNING, moved(Kind.PAUSED, None, at(Kind.START))),
    (Rule.PAUSED_RUNNING, moved(Kind.CHECKPOINTED, None, at(Kind.START))),
    (Rule.PAUSED_RUNNING, moved(Kind.RESUMED, None, at(Kind.PAUSED))),
    (Rule.PAUSED_RUNNING, dropped(Kind.PAUSED)),
    (Rule.PAUSED_RUNNING, twice(Kind.PAUSED)),
    (Rule.PAUSED_RUNNING, twice(Kind.RESUMED)),
    (Rule.SAME_PROCESS, changed(Kind.START, pid=7)),
    (Rule.SAME_PROCESS, changed(Kind.START, pid=0)),
    (Rule.SAME_PROCESS, changed(Kind.EXEC_STARTED, pid=0)),
    (Rule.SAME_PROCESS, changed(Kind.EXIT, "e", pid=7)),
    (Rule.SAME_PROCESS, changed(Kind.EXIT, CONTAINER, pid=7)),
    (Rule.SAME_PROCESS, changed(Kind.DELETE, "", pid=0)),
    (Rule.SAME_EXIT, changed(Kind.DELETE, "", exit_status=0)),
    (Rule.SAME_EXIT, changed(Kind.DELETE, "e", exited_at_ns=None)),
    (Rule.TIMES, changed(Kind.START, at_ns=0)),
    (Rule.TIMES, changed(Kind.EXIT, "e", exited_at_ns=None)),
    (Rule.TIMES, changed(Kind.EXIT, CONTAINER, exited_at_ns=(END + 1) * SECOND_NS)),
    (Rule.WHOLE, dropped(Kind.EXIT, CONTAINER)),
    (Rule.WHOLE, dropped(Kind.EXIT, "e")),
    (Rule.WHOLE, dropped(Kind.DELETE, "")),
]


@pytest.mark.parametrize("name", list(GOOD))
def test_no_fault_is_invented(name: str) -> None:
    """What the contract admits has no fault, also when it is whole."""
    assert [] == judge(GOOD[name], is_whole=True)


@pytest.mark.parametrize(("rule", "plant"), PLANTED)
def test_planted_faults_are_found(rule: Rule, plant: Plant) -> None:
    """Each fault that is planted in a recorded stream is found under its rule."""
    faults = judge(plant(list(FULL)), is_whole=True)

    assert rule in {fault.rule for fault in faults}


def test_every_rule_is_planted() -> None:
    """No rule stands there untested."""
    assert {rule for rule, _ in PLANTED} | {Rule.ANSWERS} == set(Rule)


# These may change places with their neighbour: nobody orders them.
FREE = {
    frozenset(pair)
    for pair in (
        (Kind.START, Kind.EXEC_ADDED),  # an exec can be added to a created task
        (Kind.EXEC_ADDED,),
        (Kind.EXEC_ADDED, Kind.EXEC_STARTED),  # of different execs
        (Kind.EXEC_STARTED, Kind.PAUSED),
        (Kind.RESUMED, Kind.CHECKPOINTED),
        (Kind.CHECKPOINTED, Kind.OOM),
        (Kind.OOM, Kind.EXIT),  # of an exec: whom it killed is not said
        (Kind.DELETE,),
        (Kind.EXIT, Kind.DELETE),
    )
}


@pytest.mark.parametrize("index", range(len(FULL) - 1))
def test_neighbours_may_not_change_places(index: int) -> None:
    """Of two neighbours the order counts, unless nobody orders these two."""
    swapped = list(FULL)
    swapped[index : index + 2] = reversed(FULL[index : index + 2])
    is_free = frozenset(said.kind for said in FULL[index : index + 2]) in FREE
    if swapped[index].kind is Kind.DELETE and index == INIT_EXIT:
        is_free = True  # an exec's delete before init's exit
    if swapped[index].kind is Kind.DELETE and index == len(FULL) - 2:
        is_free = False  # the task's delete before its exec's

    faults = judge(stamped(swapped), is_whole=True)
    assert is_free == (faults == [])


OPTIONAL = {Kind.OOM, Kind.CHECKPOINTED, Kind.RESUMED}


@pytest.mark.parametrize("index", range(len(FULL)))
def test_every_event_is_missed(index: int) -> None:
    """An event that is left out is missed, unless nothing tells that it happened."""
    faults = judge([*FULL[:index], *FULL[index + 1 :]], is_whole=True)

    assert (FULL[index].kind in OPTIONAL) == (faults == [])


@pytest.mark.parametrize("index", range(len(FULL)))
def test_every_event_is_noticed_twice(index: int) -> None:
    """An event that is said twice is noticed, unless it can happen twice."""
    faults = judge([*FULL[: index + 1], *FULL[index:]], is_whole=True)

    can_repeat = FULL[index].kind in {Kind.OOM, Kind.CHECKPOINTED}
    assert can_repeat == (faults == [])


def test_one_mistake_one_fault() -> None:
    """A fault tells its place, and nothing follows from it alone."""
    stream = dropped(Kind.EXEC_ADDED, "e")(list(FULL))

    assert [
        Fault(
            Rule.ADDED_FIRST,
            at(Kind.EXEC_STARTED) - 1,
            "exec-started of c/e: the exec was not added",
        )
    ] == judge(stream, is_whole=True)
    assert "added-first at 3: exec-started of c/e: the exec was not added" == str(
        judge(stream)[0]
    )


@pytest.mark.parametrize("name", list(GOOD))
def test_the_beginning_of_a_good_stream_is_good(name: str) -> None:
    """A stream that goes on has no fault before its end; if it should, it has."""
    for length in range(len(GOOD[name])):
        assert [] == judge(GOOD[name][:length])
    assert judge(GOOD[name][:-1], is_whole=True)


@given(st.data())
def test_containers_are_judged_apart(data: st.DataObject) -> None:
    """However the streams of containers come mixed, each is judged by itself."""
    lists = [
        [
            replace(
                said, container_id=name, id=name if said.id == CONTAINER else said.id
            )
            for said in stream
        ]
        for name, stream in GOOD.items()
    ]
    mixed = []
    while left := [each for each in lists if each]:
        mixed.append(data.draw(st.sampled_from(left)).pop(0))
    assert [] == judge(mixed, is_whole=True)


@pytest.mark.parametrize(
    "answer",
    [
        Answered(CONTAINER, was_started=False),
        Answered(CONTAINER, pid=101),
        Answered(CONTAINER, exit_status=4),
        Answered(CONTAINER, exited_at_ns=2),
        Answered(CONTAINER, was_deleted=False),
        Answered(CONTAINER, "e", pid=100),
        Answered(CONTAINER, "never", was_started=True),
        Answered(CONTAINER, "never", exit_status=1),
        Answered(CONTAINER, "unknown", was_started=True),
        Answered("other", was_deleted=True),
    ],
)
def test_answers_that_the_events_do_not_tell(answer: Answered) -> None:
    """What a client was told and the events tell otherwise, or not, is a fault."""
    assert [Rule.ANSWERS] == [fault.rule for fault in judge(FULL, answers=[answer])]


def test_answers_that_the_events_tell() -> None:
    """What agrees has no fault, nor what was not asked, nor what never was."""
    answers = [
        Answered(CONTAINER),
        Answered(
            CONTAINER,
            was_started=True,
            pid=100,
            exit_status=3,
            exited_at_ns=1,
            was_deleted=True,
        ),
        Answered(CONTAINER, "e", was_started=True, pid=101, exit_status=4),
        Answered(CONTAINER, "never", was_started=False, was_deleted=True),
        Answered(CONTAINER, "unknown", was_started=False),
    ]
    assert [] == judge(FULL, answers=answers)
    assert [] == judge(UNSTARTED, answers=[Answered(CONTAINER, was_started=False)])


def test_an_init_that_was_only_created_may_not_start_later() -> None:
    """There is no start after the exit of an init that never started."""
    stream = stamped([*UNSTARTED[:2], say(Kind.START, pid=100), UNSTARTED[2]])

    assert [Rule.EXIT_AFTER_START] == [fault.rule for fault in judge(stream)]


def test_a_restored_process_keeps_its_pid() -> None:
    """The pid that the start has brought is that of all which follows."""
    stream = [*RESTORED[:2], replace(RESTORED[2], pid=7), RESTORED[3]]

    assert [Rule.SAME_PROCESS] == [fault.rule for fault in judge(stream)]
