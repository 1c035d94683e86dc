"""containerd's services, as tables of methods.

Owns the names on the wire; the messages are those of the ``*_pb2`` modules.
Must not know: who calls a method, and who answers it.

Invariant (one-task-service): version 3 of the Task service takes the message classes of
version 2, since the two differ by the name of their package only; so a handler is
written once and registered under both names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dunnage.api import forward_pb2
from dunnage.api import task_v2_pb2 as task
from dunnage.descriptors import Empty
from dunnage.ttrpc.services import Method


class TaskMethods:
    """The methods of the Task service under one of its names."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.state = Method(service, "State", task.StateRequest, task.StateResponse)
        self.create = Method(
            service, "Create", task.CreateTaskRequest, task.CreateTaskResponse
        )
        self.start = Method(service, "Start", task.StartRequest, task.StartResponse)
        self.delete = Method(service, "Delete", task.DeleteRequest, task.DeleteResponse)
        self.pids = Method(service, "Pids", task.PidsRequest, task.PidsResponse)
        self.pause = Method(service, "Pause", task.PauseRequest, Empty)
        self.resume = Method(service, "Resume", task.ResumeRequest, Empty)
        self.checkpoint = Method(
            service, "Checkpoint", task.CheckpointTaskRequest, Empty
        )
        self.kill = Method(service, "Kill", task.KillRequest, Empty)
        self.exec = Method(service, "Exec", task.ExecProcessRequest, Empty)
        self.resize_pty = Method(service, "ResizePty", task.ResizePtyRequest, Empty)
        self.close_io = Method(service, "CloseIO", task.CloseIORequest, Empty)
        self.update = Method(service, "Update", task.UpdateTaskRequest, Empty)
        self.wait = Method(service, "Wait", task.WaitRequest, task.WaitResponse)
        self.stats = Method(service, "Stats", task.StatsRequest, task.StatsResponse)
        self.connect = Method(
            service, "Connect", task.ConnectRequest, task.ConnectResponse
        )
        self.shutdown = Method(service, "Shutdown", task.ShutdownRequest, Empty)

    def __iter__(self) -> Iterator[Method[Any, Any]]:
        return (it for it in vars(self).values() if isinstance(it, Method))


class EventsMethods:
    """The methods of the service by which the daemon takes events."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.forward = Method(service, "Forward", forward_pb2.ForwardRequest, Empty)


TASK_V2 = TaskMethods("containerd.task.v2.Task")
TASK_V3 = TaskMethods("containerd.task.v3.Task")
EVENTS = EventsMethods("containerd.services.events.ttrpc.v1.Events")
