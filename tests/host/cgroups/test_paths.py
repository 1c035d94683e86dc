"""From the spec's words to directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dunnage.host.cgroups import directories, path_in_spec
from dunnage.host.cgroups.paths import own


@pytest.mark.parametrize(
    ("words", "systemd", "expected"),
    [
        ("/ns/c", False, "/ns/c"),
        ("/ns//x/../c/", False, "/ns/c"),
        ("ns/c", False, None),
        ("", False, None),
        ("system.slice:docker:c", True, "/system.slice/docker-c.scope"),
        ("a-b.slice:cri:c", True, "/a.slice/a-b.slice/cri-c.scope"),
        (":docker:c", True, "/system.slice/docker-c.scope"),
        ("-.slice::c", True, "/c.scope"),
        ("a.slice:p:b.slice", True, "/a.slice/b.slice"),
        ("/ns/c", True, None),
    ],
)
def test_the_paths_are_the_runtimes(
    words: str, systemd: bool, expected: str | None
) -> None:
    """Both forms give the path that runc uses; what depends on more gives none."""
    assert expected == path_in_spec(words, systemd=systemd)


def test_directories_are_below_each_mount() -> None:
    """Every hierarchy that is mounted has one."""
    found = directories("/x/y")
    assert any(path.startswith("/sys/fs/cgroup") for path in found)
    assert all(path.endswith("/x/y") for path in found)


def test_our_own_is_where_we_are() -> None:
    """In one hierarchy at least; the kernel lists us there."""
    place = own()
    assert place
    assert str(os.getpid()) in Path(place, "cgroup.procs").read_text().split()
