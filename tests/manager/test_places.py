"""Where things are."""

from __future__ import annotations

from pathlib import Path

import pytest

from dunnage.errors import InvalidArgument
from dunnage.manager.places import Places, make_passage


@pytest.mark.parametrize("namespace", ["", "..", "a/b", "a" * 77])
def test_bad_namespace(namespace: str) -> None:
    """A namespace is an identifier, as it becomes a file name."""
    with pytest.raises(InvalidArgument, match="namespace"):
        Places.make(namespace)


def test_socket_name_too_long() -> None:
    """A state whose socket the kernel would refuse is refused at once."""
    assert Places.make("n", "/" + "d" * 93).events_socket.endswith("/n.sock.ttrpc")
    with pytest.raises(InvalidArgument, match="1 bytes too long"):
        Places.make("n", "/" + "d" * 94)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not given comes from the environment, and then from the default."""
    monkeypatch.delenv("DUNNAGE_STATE", raising=False)
    monkeypatch.setenv("DUNNAGE_ROOT", "/e/root")
    places = Places.make("n")
    assert (Path("/run/dunnage"), Path("/e/root")) == (places.state, places.root)
    assert Places.make("n", root="/given").root == Path("/given")


def test_passage(tmp_path: Path) -> None:
    """A passage lets others through and not in; what is there stays as it is."""
    make_passage(tmp_path / "a/b")
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o711
    (tmp_path / "a").chmod(0o700)
    make_passage(tmp_path / "a/b")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
