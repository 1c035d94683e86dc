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


def test_where_its_cgroup_is() -> None:
    """The path as it is written; what is no string does not count."""
    assert "/a/b" == Spec.parse('{"linux": {"cgroupsPath": "/a/b"}}').cgroups_path
    for text in ('{"linux": {"cgroupsPath": 5}}', '{"linux": 5}', "{}"):
        assert "" == Spec.parse(text).cgroups_path


@pytest.mark.parametrize(
    ("mappings", "outside"),
    [
        ([{"containerID": 0, "hostID": 1000, "size": 10}], 1000),
        (
            [
                {"containerID": 1, "hostID": 5, "size": 1},
                {"containerID": 0, "hostID": 6, "size": 1},
            ],
            6,
        ),
        ([{"containerID": 1, "hostID": 5, "size": 1}], 0),
        ([{"containerID": 0, "hostID": 5, "size": 0}], 0),
        ([{"containerID": 0, "hostID": "5", "size": 1}], 0),
        ([{"containerID": 0, "hostID": -5, "size": 1}], 0),
        (["x", None], 0),
        ({"containerID": 0}, 0),
        (None, 0),
    ],
)
def test_who_its_root_is_outside(mappings: object, outside: int) -> None:
    """The id that 0 is mapped to; users and groups each have their own."""
    other = [{"containerID": 0, "hostID": 77, "size": 1}]
    text = json.dumps({"linux": {"uidMappings": mappings, "gidMappings": other}})
    spec = Spec.parse(text)
    assert (outside, 77) == (spec.root_uid, spec.root_gid)
    text = json.dumps({"linux": {"uidMappings": other, "gidMappings": mappings}})
    assert outside == Spec.parse(text).root_gid
