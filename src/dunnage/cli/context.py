"""What every command has: the places, and how much is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dunnage.errors import ConnectionBroken, FailedPrecondition
from dunnage.manager.client import Task
from dunnage.manager.launch import Shim

if TYPE_CHECKING:
    from dunnage.manager.bundles import Bundle
    from dunnage.manager.places import Places


@dataclass(frozen=True, slots=True)
class Context:
    """The global options."""

    places: Places
    debug: bool = False

    def shim_of(self, bundle: Bundle) -> Shim:
        """Return the shim that a bundle was started with."""
        return Shim.of(bundle, self.places, debug=self.debug)

    async def connect(self, bundle: Bundle) -> Task:
        """Connect to the shim of a task.

        Raises:
            FailedPrecondition: it is dead.
        """
        try:
            return await Task.connect(bundle, self.places.namespace)
        except ConnectionBroken as error:
            raise FailedPrecondition(
                f"the shim of {bundle.id} is gone; "
                f"remove what is left with: dunnage rm {bundle.id}"
            ) from error
