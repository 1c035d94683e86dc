"""The names of outputs that are URIs."""

from __future__ import annotations

import pytest

from dunnage.errors import InvalidArgument
from dunnage.host.stdio.uri import LogUri


@pytest.mark.parametrize(
    ("uri", "path", "arguments"),
    [
        ("file:///a/b.log", "/a/b.log", ()),
        ("binary:///bin/x?k=v&k2=v2", "/bin/x", ("k", "v", "k2", "v2")),
        ("binary:///bin/x?flag", "/bin/x", ("flag", "")),
        ("binary:///bin/x?k=1&k=2&j=&k=3", "/bin/x", ("k", "1", "j", "")),
        ("binary:///bin/x?k=a=b", "/bin/x", ("k", "a=b")),
        ("binary:///a%20b+c?a+b=%2B%26%3D", "/a b+c", ("a b", "+&=")),
        ("binary:///x?&&a=1&", "/x", ("a", "1")),
        ("binary:///%C3%A9%ff?%zz=%4", "/é\udcff", ("%zz", "%4")),
        ("binary:///x#y?a=b", "/x", ()),
        ("binary:///x?a=b#c", "/x", ("a", "b")),
        ("binary:///x%23%3Fy", "/x#?y", ()),
    ],
)
def test_it_is_taken_apart(uri: str, path: str, arguments: tuple[str, ...]) -> None:
    """A path, and each key with its first value; escapes count after that."""
    assert LogUri(path, arguments) == LogUri.parse(uri)


@pytest.mark.parametrize("uri", ["binary://", "binary://bin/x", "binary://?a=/b"])
def test_a_path_is_absolute(uri: str) -> None:
    """Nobody's host is taken for the start of a path."""
    with pytest.raises(InvalidArgument, match="has no absolute path"):
        LogUri.parse(uri)
