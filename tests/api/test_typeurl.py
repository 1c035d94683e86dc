"""Messages go into an Any under their bare name, and come out under any host."""

from __future__ import annotations

import pytest

from dunnage.api import events_pb2, legacy_options_pb2, runc_options_pb2
from dunnage.api.typeurl import holds, pack, unpack
from dunnage.descriptors import Any
from dunnage.errors import InvalidArgument

OOM = events_pb2.TaskOOM(container_id="c1")


def test_bare_name() -> None:
    """The type url is the full name of the message, without a host."""
    assert pack(OOM).type_url == "containerd.events.TaskOOM"
    assert unpack(pack(OOM), events_pb2.TaskOOM) == OOM


@pytest.mark.parametrize("host", ["types.containerd.io/", "type.googleapis.com/", "/"])
def test_host_is_ignored(host: str) -> None:
    """A type url with a host before the name is understood."""
    packed = Any(type_url=host + pack(OOM).type_url, value=pack(OOM).value)
    assert holds(packed, events_pb2.TaskOOM)
    assert unpack(packed, events_pb2.TaskOOM) == OOM


def test_other_message() -> None:
    """A message of the same short name in another package is another message."""
    packed = pack(legacy_options_pb2.CheckpointOptions(work_path="/w"))
    assert not holds(packed, runc_options_pb2.CheckpointOptions)
    with pytest.raises(InvalidArgument, match=r"containerd\.linux\.runc"):
        unpack(packed, runc_options_pb2.CheckpointOptions)


def test_broken_bytes() -> None:
    """Bytes that are no message are the peer's mistake, not a crash."""
    packed = Any(type_url="containerd.events.TaskOOM", value=b"\x0a\xff")
    with pytest.raises(InvalidArgument, match=r"not a containerd\.events\.TaskOOM"):
        unpack(packed, events_pb2.TaskOOM)
