"""A real containerd is killed while processes exit, and comes back; and our log in its.

What a client that subscribes anew can see is a matter of luck, so the daemon's own log
of what was forwarded is read.
During the outage the shim is driven by its own socket, as any client with the rights
could.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.machine import pids_with
from tests.shim.harness import process

from dunnage.api.services import TASK_V2
from dunnage.ttrpc.aio.client import Client

from .daemon import IMAGE, Containerd, wait_for
from .test_containerd import BY_NAME, nothing_is_left

pytestmark = pytest.mark.slow

EXITS = 100
OUTAGE_S = float(os.environ.get("DUNNAGE_OUTAGE_S", "0"))
"""How long the daemon stays away at least; 120 for the real thing."""
LIMIT_S = 10.0


async def exits_of_execs(address: str) -> None:
    """Have execs end at once and be deleted, a few at a time."""
    client = await Client.connect(address, timeout_s=LIMIT_S)
    names = iter([f"e{n}" for n in range(EXITS)])

    async def call(name: str, **fields: Any) -> None:
        method = getattr(TASK_V2, name)
        await client.call(method, method.request(id="c", **fields), timeout_s=LIMIT_S)

    async def some() -> None:
        for exec_id in names:
            value = json.dumps(process(["true"])).encode()
            spec = {"type_url": "x", "value": value}
            await call("exec", exec_id=exec_id, spec=spec)
            for name in ("start", "wait", "delete"):
                await call(name, exec_id=exec_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(some())
    client.close()


@pytest.mark.parametrize(
    ("containerd", "hangs"),
    [("containerd-1.6", False), ("containerd-1.6", True), ("containerd-2.1", False)],
    indirect=["containerd"],
)
@pytest.mark.feature("exits during an outage are told")
def test_a_hundred_exits_during_an_outage(containerd: Containerd, hangs: bool) -> None:
    """fifo: all is forwarded when the daemon is back, each kind as often as it was.

    It may have hung before it was killed, with an event that it had not answered.
    """
    containerd.ctr("run", "-d", *BY_NAME, IMAGE, "c", "sleep", "1000")
    before = len(containerd.log())
    address = (containerd.bundles / "c" / "address").read_text()
    if hangs:
        containerd.stop()
    else:
        containerd.kill()
    began = time.monotonic()
    asyncio.run(exits_of_execs(address))
    wait_for("the outage", lambda: time.monotonic() > began + OUTAGE_S, OUTAGE_S + 1)
    if hangs:
        containerd.kill()
    containerd.start()

    def forwarded() -> list[str]:
        log = containerd.log()[before:]
        pattern = rf'msg="event forwarded" ns={containerd.namespace} topic=(\S+)'
        return [topic.removeprefix("/tasks/") for topic in re.findall(pattern, log)]

    life = ["exec-added", "exec-started", "exit", "delete"]
    wait_for("the events", lambda: len(forwarded()) >= len(life) * EXITS)
    topics = forwarded()
    assert dict.fromkeys(life, EXITS) == {k: topics.count(k) for k in topics}
    # Of any beginning of the stream: nothing is said before what it follows.
    for at in range(len(topics)):
        counts = [topics[: at + 1].count(kind) for kind in life]
        assert counts == sorted(counts, reverse=True)
    # The log, which nobody read for a while and which may have been full, goes on.
    os.kill(shim_of(containerd), signal.SIGUSR1)
    wait_for("the dump", lambda: 'msg="dump: end"' in containerd.log()[before:])
    containerd.ctr("task", "kill", "-s", "KILL", "c")
    wait_for("the exit", lambda: forwarded()[-1] == "exit")
    containerd.ctr("task", "delete", "c", check=False)
    containerd.ctr("container", "delete", "c")
    nothing_is_left(containerd)


def shim_of(containerd: Containerd) -> int:
    """Return the pid of the one shim."""
    (pid,) = [
        pid
        for pid in pids_with(containerd.namespace)
        if b"-address" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    return pid


def test_the_dump_is_in_the_daemon_s_log(containerd: Containerd) -> None:
    """SIGUSR1 shows in the journal of containerd, a line a record, in its own form."""
    containerd.ctr("run", "-d", *BY_NAME, IMAGE, "c", "sleep", "1000")
    os.kill(shim_of(containerd), signal.SIGUSR1)
    wait_for("the dump", lambda: 'msg="dump: end"' in containerd.log())
    lines = [line for line in containerd.log().splitlines() if '"dump: ' in line]
    form = (
        r'time="\S+Z" level=info msg="dump: .*"( container=c)? runtime=\S+ namespace='
    )
    form += re.escape(containerd.namespace)
    for line in lines:
        assert re.fullmatch(form, line), line
    assert any("init is running" in line and " container=c " in line for line in lines)
    # The daemon's own lines begin alike.
    begin = r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}\S+" level=info msg="'
    assert re.search(f"^{begin}starting containerd", containerd.log(), re.MULTILINE)
    assert re.match(begin, lines[0])
    containerd.ctr("task", "kill", "-s", "KILL", "c")
