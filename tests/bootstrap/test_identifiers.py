"""Twin of dunnage.bootstrap.identifiers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.bootstrap.identifiers import is_identifier, validate
from dunnage.errors import InvalidArgument

RULE = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")


@pytest.mark.parametrize("text", ["c1", "a", "0", "a.b-c_d", "k8s.io", "x" * 76])
def test_good(text: str) -> None:
    """Names that containerd takes are taken."""
    assert is_identifier(text)
    validate("id", text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a/b",
        "../a",
        "-a",
        "a-",
        "a..b",
        "a b",
        "a\n",
        "ä",
        "²",
        "x" * 77,
    ],
)
def test_bad(text: str) -> None:
    """Names that containerd refuses are refused, with the kind in the text."""
    assert not is_identifier(text)
    with pytest.raises(InvalidArgument, match=r"^exec id "):
        validate("exec id", text)


def test_long_name_is_cut() -> None:
    """The refusal of a long name is not as long as the name."""
    with pytest.raises(InvalidArgument, match="longer than 76") as caught:
        validate("id", "x" * 100_000)
    assert len(str(caught.value)) < 200


@given(st.text(alphabet="aZ09._-/ ²ä\n", max_size=80))
def test_same_as_the_rule(text: str) -> None:
    """The check decides as the regular expression of the rule does."""
    assert (len(text) <= 76 and bool(RULE.fullmatch(text))) == is_identifier(text)
