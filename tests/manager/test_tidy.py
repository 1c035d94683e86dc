"""What tasks share goes with the last of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dunnage.manager import bundles
from dunnage.manager.tidy import tidy

if TYPE_CHECKING:
    from dunnage.manager.places import Places


def test_not_before_the_last(places: Places) -> None:
    """As long as there is a task, everything stays; then what is empty goes."""
    bundle = bundles.create(places, "c", b"{}")
    states = places.runtime_root / places.namespace
    states.mkdir(parents=True)
    tidy(places)
    assert places.bundles.exists()
    assert states.exists()
    bundles.delete(bundle)
    (places.works / "another").mkdir()
    tidy(places)
    assert not places.bundles.exists()
    assert not states.exists()
    assert places.works.exists()
    (places.works / "another").rmdir()
    tidy(places)
    tidy(places)
    assert not places.works.exists()
