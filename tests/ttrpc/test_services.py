"""Methods as values."""

from __future__ import annotations

from dunnage.ttrpc.services import Kind, Method

from .notes import ECHO, Note


def test_a_method_is_a_value() -> None:
    """Two descriptions of one method are equal, and unary unless they say otherwise."""
    same = Method("notes.Notes", "Echo", Note, Note, Kind.UNARY)
    assert same == ECHO
    assert hash(same) == hash(ECHO)


def test_full_name_is_service_and_method() -> None:
    """A method is called by service and name, with a slash between."""
    assert ECHO.full_name == "notes.Notes/Echo"
