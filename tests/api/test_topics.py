"""Every event message has its topic."""

from __future__ import annotations

from dunnage.api import events_pb2
from dunnage.api.topics import TOPICS


def test_every_event_has_a_topic() -> None:
    """The table names each event message once, and nothing else."""
    messages = {
        it.full_name for it in events_pb2.DESCRIPTOR.message_types_by_name.values()
    }
    assert messages - {"containerd.events.TaskIO"} == set(TOPICS)
    assert len(TOPICS) == len(set(TOPICS.values()))


def test_topics_are_containerds() -> None:
    """The topics that others filter on are spelt as containerd spells them."""
    assert TOPICS["containerd.events.TaskExit"] == "/tasks/exit"
    assert TOPICS["containerd.events.TaskExecStarted"] == "/tasks/exec-started"
