"""What the log says of one life."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from dunnage.manager import bundles, life
from dunnage.manager.client import Exit
from dunnage.manager.eventlog import Writer

if TYPE_CHECKING:
    from dunnage.manager.places import Places

EXIT = Exit(7, 3, 5)


def test_events_are_read_back(places: Places) -> None:
    """An exit and a delete are of the life that they were said in, and of its id."""
    writer = Writer.maybe_open(places.event_log)
    assert writer is not None
    began = life.Born(time.time_ns())
    assert life.read(places, "c", life.Born()) == life.Life(False, None, False)
    writer.append(life.exit_event(places, "c", EXIT))
    assert life.read(places, "c", began) == life.Life(False, EXIT, False)
    writer.append(life.delete_event(places, "c", EXIT))
    assert life.read(places, "c", began) == life.Life(False, EXIT, True)
    assert life.read(places, "d", began) == life.Life(False, None, False)
    later = life.Born(time.time_ns() + 1)
    assert life.read(places, "c", later) == life.Life(False, None, False)
    broken = replace(life.exit_event(places, "d", EXIT), value=b"\xff")
    writer.append(broken)
    assert life.read(places, "d", began) == life.Life(False, None, False)
    writer.close()


def test_a_clock_that_a_reboot_has_set_back(places: Places) -> None:
    """What was in the log before is of an earlier life, whatever the clock said."""
    writer = Writer.maybe_open(places.event_log)
    assert writer is not None
    hour_ns = 3600 * 10**9
    said = life.exit_event(places, "c", EXIT)
    writer.append(replace(said, timestamp_ns=said.timestamp_ns + hour_ns))
    bundle = bundles.create(places, "c", b"{}")
    born = life.born(bundle)
    assert life.read(places, "c", born) == life.Life(False, None, False)
    writer.append(life.exit_event(places, "c", EXIT))
    assert life.read(places, "c", born) == life.Life(False, EXIT, False)
    writer.close()


def test_birth(places: Places) -> None:
    """A bundle tells when it was made; without it everything counts."""
    before = time.time_ns()
    bundle = bundles.create(places, "c", b"{}")
    slack_ns = 20_000_000  # of the kernel's coarse clock
    assert before - slack_ns <= life.born(bundle).at_ns <= time.time_ns()
    bundles.delete(bundle)
    assert life.born(bundle) == life.Born()
