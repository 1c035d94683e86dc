"""Under which topic each message goes onto the daemon's event bus.

A table of names only: it needs no message class.
"""

from __future__ import annotations

from typing import Final

_TASK_TOPICS: Final = {
    "TaskCreate": "create",
    "TaskStart": "start",
    "TaskDelete": "delete",
    "TaskExit": "exit",
    "TaskOOM": "oom",
    "TaskExecAdded": "exec-added",
    "TaskExecStarted": "exec-started",
    "TaskPaused": "paused",
    "TaskResumed": "resumed",
    "TaskCheckpointed": "checkpointed",
}

TOPICS: Final[dict[str, str]] = {
    f"containerd.events.{message}": f"/tasks/{topic}"
    for message, topic in _TASK_TOPICS.items()
}
"""Full name of a message → its topic; containerd refuses events without a topic."""
