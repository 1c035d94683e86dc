"""Removing cgroups beside an event loop, with the library and without it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.machine import cgroups_named

from dunnage.host import native
from dunnage.host.cgroups import directories, remove_empty_apart
from dunnage.host.procs import Children


@pytest.fixture(params=["quick", "forked"])
def groups(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """A cgroup in each hierarchy; where it lies, once per mount."""
    if request.param == "forked":
        monkeypatch.setattr(native, "library", None)
    path = f"/dunnage-test-{secrets.token_hex(4)}"
    tops = directories(path)
    for top in tops:
        Path(top).mkdir(exist_ok=True)
    yield tops
    for found in cgroups_named(path):
        for inner in found.glob("in"):
            inner.rmdir()
        found.rmdir()


def removed(paths: list[str]) -> bool:
    """Remove them, from a loop."""

    async def main() -> bool:
        with Children() as children:
            return await remove_empty_apart(children, paths)

    return asyncio.run(main())


def test_they_go(groups: list[str]) -> None:
    """All of them; and those that are gone are no trouble."""
    assert removed(groups)
    assert not any(Path(group).exists() for group in groups)
    assert removed(groups)


def test_one_with_others_in_it_stays(groups: list[str]) -> None:
    """What a container has made in its cgroup is not ours to judge."""
    inner = Path(groups[0], "in")
    inner.mkdir()
    assert not removed(groups)
    assert inner.exists()
    inner.rmdir()
    assert removed(groups)


def test_no_process_for_it_is_no_success(
    groups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked has to find another way."""

    def refuse(*_: object) -> int:
        raise BlockingIOError(11, "no")

    monkeypatch.setattr("dunnage.host.errands.run", refuse)
    monkeypatch.setattr(Children, "call", refuse)
    assert not removed(groups)
    assert Path(groups[0]).exists()
