"""The partial view of config.json."""

from __future__ import annotations

import json

import pytest

from dunnage.errors import InvalidArgument
from dunnage.oci import Spec


@pytest.mark.parametrize(
    ("namespaces", "shares"),
    [
        ([{"type": "mount"}, {"type": "pid"}], False),
        ([{"type": "pid", "path": ""}], False),
        ([{"type": "pid", "path": "/proc/1/ns/pid"}], True),
        ([{"type": "mount"}], True),
        ([], True),
        (None, True),
        ("pid", True),
        (["pid", 3], True),
    ],
)
def test_a_pid_namespace_of_its_own_has_no_path(
    namespaces: object, shares: bool
) -> None:
    """Only an entry of type pid without a path makes a namespace of its own."""
    spec = Spec.parse(json.dumps({"linux": {"namespaces": namespaces}}))

    assert shares is spec.shares_pid_namespace


def test_annotations_are_read_and_odd_ones_skipped() -> None:
    """A value that is no string does not count."""
    spec = Spec.parse(b'{"annotations": {"a": "b", "c": 3}, "more": []}')

    assert {"a": "b"} == spec.annotations


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    """Bad JSON is an invalid argument that names the file."""
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        Spec.parse(data)


@pytest.mark.parametrize(
    ("mappings", "outside"),
    [
        ([{"containerID": 0, "hostID": 1000, "size": 9}], 1000),
        ([{"containerID": 5, "hostID": 7}, {"containerID": 0, "hostID": 8}], 8),
        ([{"containerID": 1, "hostID": 1000}], 0),
        ([{"containerID": 0, "hostID": "7"}], 0),
        ([{"containerID": 0}, 3], 0),
        ([], 0),
        (None, 0),
        ({"containerID": 0, "hostID": 7}, 0),
    ],
)
def test_who_root_is_outside(mappings: object, outside: int) -> None:
    """What the mappings make of id 0; without one it is nobody else."""
    linux = {"uidMappings": mappings, "gidMappings": [{"containerID": 0, "hostID": 3}]}
    spec = Spec.parse(json.dumps({"linux": linux}))

    assert (outside, 3) == (spec.root_uid, spec.root_gid)
