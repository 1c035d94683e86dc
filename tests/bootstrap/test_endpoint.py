"""Twin of dunnage.bootstrap.endpoint."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.bootstrap import bundle, endpoint
from dunnage.bootstrap.endpoint import Endpoint
from dunnage.errors import InvalidArgument, Unimplemented

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:///x", Endpoint("unix:///x")),
        ("  unix:///x\n", Endpoint("unix:///x")),
        (
            '{"version":2,"address":"unix:///x","protocol":"ttrpc"}',
            Endpoint("unix:///x"),
        ),
        (
            '{"version":3,"address":"unix:///x","protocol":"grpc"}\n',
            Endpoint("unix:///x", 3, "grpc"),
        ),
        ('{"version":3,"address":"unix:///x"}', Endpoint("unix:///x", 3, "")),
        ('{"version":1,"address":"a"}', Endpoint('{"version":1,"address":"a"}')),
        ('{"version":true}', Endpoint('{"version":true}')),
        ("[3]", Endpoint("[3]")),
        ("3", Endpoint("3")),
    ],
)
def test_text(text: str, expected: Endpoint) -> None:
    """JSON of a version from 2 is taken apart; all else is a plain address."""
    assert expected == endpoint.parse_text(text)


@given(st.text() | st.just("[" * 100_000))
def test_any_text(text: str) -> None:
    """Any text is an endpoint; whether it is a good one is asked later."""
    assert endpoint.parse_text(text).version >= 2


@given(
    st.builds(
        Endpoint,
        address=st.text(min_size=1),
        version=st.sampled_from([2, 3]),
        protocol=st.sampled_from(["ttrpc", "grpc"]),
    )
)
def test_round_trip(found: Endpoint) -> None:
    """What goes into bootstrap.json comes out again."""
    assert found == endpoint.parse_text(found.to_json()).checked()


@pytest.mark.parametrize(
    ("found", "kind", "text"),
    [
        (
            Endpoint("unix:///x", 4),
            Unimplemented,
            "unsupported shim version (4): not implemented",
        ),
        (
            Endpoint("unix:///x", 3, ""),
            InvalidArgument,
            'unexpected protocol: "": invalid argument',
        ),
        (Endpoint(""), InvalidArgument, "the shim said no address: invalid argument"),
    ],
)
def test_refused(
    found: Endpoint, kind: type[InvalidArgument | Unimplemented], text: str
) -> None:
    """What no manager can use is refused in containerd's words."""
    with pytest.raises(kind) as caught:
        found.checked()
    assert text == caught.value.wire_text


def test_bundle_of_ours(tmp_path: Path) -> None:
    """bootstrap.json is found again, and everyone may read it."""
    found = Endpoint("unix:///x", 3)
    endpoint.write(str(tmp_path), found)
    assert found == endpoint.read(str(tmp_path))
    mode = (tmp_path / bundle.BOOTSTRAP).stat().st_mode
    assert stat.S_IMODE(mode) == 0o644


@pytest.mark.parametrize(
    "content", ["unix:///x", '{"version":2,"address":"unix:///x","protocol":"ttrpc"}']
)
def test_bundle_of_an_old_shim(tmp_path: Path, content: str) -> None:
    """Without bootstrap.json the shim's own address file is taken, JSON or plain."""
    (tmp_path / bundle.ADDRESS).write_text(content)
    assert Endpoint("unix:///x") == endpoint.read(str(tmp_path))


def test_bundle_without(tmp_path: Path) -> None:
    """A bundle whose shim never answered names no endpoint."""
    assert endpoint.read(str(tmp_path)) is None
    (tmp_path / bundle.ADDRESS).touch()
    assert endpoint.read(str(tmp_path)) is None
