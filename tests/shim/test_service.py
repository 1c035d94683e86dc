"""The Task service: what is refused, what goes on all the same, who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dunnage.api import process_pb2
from dunnage.bootstrap import bundle, wire
from dunnage.descriptors import Any as PackedAny
from dunnage.errors import (
    AlreadyExists,
    ConnectionClosed,
    DunnageError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unknown,
)

from .harness import LIMIT_S, Shim, fifo_reader, fill, in_loop, spec, tiny_disk, until

pytestmark = pytest.mark.slow

YEAR_1_S = -62_135_596_800
"""Go's zero time: it never was."""
CREATED = process_pb2.CREATED
RUNNING = process_pb2.RUNNING
STOPPED = process_pb2.STOPPED
CREATE_FAILED = "OCI runtime create failed: "
EXEC_FAILED = "OCI runtime exec failed: "


@contextlib.asynccontextmanager
async def refusal(kind: type[DunnageError], text: str) -> AsyncIterator[None]:
    """Expect an error of exactly this kind, with a text that matches."""
    with pytest.raises(DunnageError) as caught:
        yield
    assert kind is type(caught.value)
    assert re.search(text, str(caught.value)), caught.value


async def leaves_nothing(shim: Shim, id_: str = "c") -> None:
    """Check that a refused Create is as if it had never been, but for the shim."""
    async with refusal(NotFound, "^container not created$"):
        await shim.call(id_, "state")
    assert [] == shim.kinds(id_)
    await shim.call(id_, "shutdown")
    assert [] == await shim.gone(id_)
    for directory in shim.bundles.iterdir():
        names = {p.name for p in directory.iterdir()}
        assert [] == [name for name in names if name.startswith(".")]
        if (directory / "rootfs").exists():
            assert [] == list((directory / "rootfs").iterdir())


@contextlib.contextmanager
def gated(shim: Shim, command: str) -> Any:
    """Have the runtime wait, in one of its commands, until the gate is opened."""
    gate, at_gate = shim.directory / "gate", shim.directory / "at-gate"
    os.mkfifo(gate)
    program = shim.directory / "gated"
    program.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" {command} "*) : >{at_gate}; read x <{gate};; esac\n'
        f'exec {shim.runtime} "$@"\n'
    )
    program.chmod(0o755)
    shim.runtime = str(program)
    holder = os.open(gate, os.O_RDWR)
    try:
        yield Gate(holder, at_gate)
    finally:
        gate.unlink()  # whoever comes later, to clean up, passes
        os.close(holder)


class Gate:
    """The other side of `gated`."""

    def __init__(self, fd: int, at_gate: Path) -> None:
        self._fd = fd
        self._at_gate = at_gate

    async def reached(self) -> None:
        """Wait until a runtime waits."""
        await until(self._at_gate.exists)

    def open(self) -> None:
        """Let it pass."""
        os.write(self._fd, b"\n")


# -- bad input: Create


@pytest.mark.parametrize("bad", ["", "..", "a/b", "../c", "a\0b", "a\n", "x" * 77])
@in_loop
async def test_a_bad_id_is_refused(tmp_path: Path, bad: str) -> None:
    """An id that is no identifier is an invalid argument, for an exec as well."""
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        async with refusal(InvalidArgument, "^container id "):
            await shim.call("c", "create", id=bad)
        await shim.call("c", "create")
        async with refusal(InvalidArgument, "^exec id "):
            await shim.exec("c", bad, ["true"])
        assert ["Create"] == shim.kinds()


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("config", [None, "{", "[]", "{}"])
@in_loop
async def test_a_bad_config_is_refused(
    tmp_path: Path, runtime: str, config: str | None
) -> None:
    """A config.json that vanished, or makes no sense, is the runtime's to judge."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c")
        if config is None:
            (shim.bundles / "c" / "config.json").unlink()
        else:
            (shim.bundles / "c" / "config.json").write_text(config)
        async with refusal(Unknown, f"^{CREATE_FAILED}."):
            await shim.call("c", "create")
        await leaves_nothing(shim)


@pytest.mark.parametrize(
    ("binary", "reason"),
    [
        (
            "no-such-runtime",
            r'exec: "no-such-runtime": executable file not found in \$PATH',
        ),
        ("/no/such/runtime", "fork/exec /no/such/runtime: no such file or directory"),
        ("/etc/passwd", "fork/exec /etc/passwd: permission denied"),
        ("/", "fork/exec /: permission denied"),
    ],
)
@in_loop
async def test_an_unknown_runtime_is_refused(
    tmp_path: Path, binary: str, reason: str
) -> None:
    """The text says which program is missing, or cannot be run."""
    async with Shim(tmp_path, runtime=binary) as shim:
        await shim.up("c")
        unread = r"unable to retrieve OCI runtime error \(open .*/log.json: [^)]*\): "
        async with refusal(Unknown, f"^{CREATE_FAILED}{unread}{reason}$"):
            await shim.call("c", "create")
        await leaves_nothing(shim)


@pytest.mark.parametrize(
    ("mounts", "text"),
    [
        (
            [{"type": "bind", "source": "/no/such", "options": ["rbind"]}],
            "no such file",
        ),
        ([{"type": "nosuchfs", "source": "none"}], "no such device"),
        ([{"type": "overlay", "source": "o", "options": ["lowerdir=/no"]}], "no such"),
        (
            [
                {"type": "tmpfs", "source": "tmpfs"},
                {"type": "tmpfs", "source": "t", "target": "../../x"},
            ],
            "target ../../x: no such file",
        ),
        (
            [{"type": "bind", "source": "/a\0b", "options": ["rbind"]}],
            "invalid argument",
        ),
    ],
)
@in_loop
async def test_a_rootfs_that_cannot_be_mounted_is_refused(
    tmp_path: Path, mounts: list[dict[str, Any]], text: str
) -> None:
    """mounts-undone: the text says which component it was; none stays mounted."""
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        async with refusal(Unknown, f"^failed to mount rootfs component: .*{text}"):
            await shim.call("c", "create", rootfs=mounts)
        await leaves_nothing(shim)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("command", ["/no/such", "no-such", "/etc/plain", "/etc"])
@in_loop
async def test_a_command_that_cannot_be_run_is_refused(
    tmp_path: Path, runtime: str, command: str
) -> None:
    """Init or exec, whenever the runtime notices: its words, and a clean end."""
    words = "no such file|not found|ermission denied|is a directory|not permitted"
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", [command])
        async with refusal(Unknown, f"^OCI runtime (create|start) failed: .*({words})"):
            await shim.call("c", "create")
            await shim.call("c", "start")
        with contextlib.suppress(NotFound):
            await shim.call("c", "delete")
        await shim.up("d", ["sleep", "1000"])
        await shim.call("d", "create")
        await shim.call("d", "start")
        await shim.exec("d", "e", [command])
        async with refusal(Unknown, f"^{EXEC_FAILED}.*({words})"):
            await shim.call("d", "start", exec_id="e")
        # As the reference has it: created for ever, and nothing to wait for.
        state = await shim.call("d", "state", exec_id="e")
        assert (CREATED, 0) == (state.status, state.pid)
        waited = await shim.call("d", "wait", exec_id="e")
        assert (0, YEAR_1_S) == (waited.exit_status, waited.exited_at.seconds)
        deleted = await shim.call("d", "delete", exec_id="e")
        assert (0, 0) == (deleted.pid, deleted.exit_status)
        await shim.call("d", "kill", signal=9)
        await shim.call("d", "wait")
        await shim.call("d", "delete")
        for id_ in ("c", "d"):
            await shim.call(id_, "shutdown")
        for id_ in ("c", "d"):
            assert [] == await shim.gone(id_)
        expected = ["Create", "Start", "ExecAdded", "Delete e", "Exit", "Delete"]
        assert expected == shim.kinds("d")
        files = {"address", "config.json", "log", "log.json", "rootfs"}
        assert files < {p.name for p in (shim.bundles / "d").iterdir()}
        assert not list((shim.bundles / "d").glob("exec-*"))


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("signum", [99, 4_000_000_000])
@in_loop
async def test_an_unknown_signal_is_refused(
    tmp_path: Path, runtime: str, signum: int
) -> None:
    """It harms nobody, and says so, for init and for execs."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        await shim.exec("c", "e", ["sleep", "1000"])
        await shim.call("c", "start", exec_id="e")
        for exec_id in ("", "e"):
            async with refusal(Unknown, "unknown error after kill: ."):
                await shim.call("c", "kill", exec_id=exec_id, signal=signum)
            state = await shim.call("c", "state", exec_id=exec_id)
            assert RUNNING == state.status


@in_loop
async def test_a_duplicate_id_is_refused(tmp_path: Path) -> None:
    """A second Create of an id that is there, or coming, changes nothing."""
    async with Shim(tmp_path) as shim:
        with gated(shim, "create") as gate:
            await shim.up("c", ["sleep", "1000"])
            first = asyncio.create_task(shim.call("c", "create"))
            await gate.reached()
            async with refusal(AlreadyExists, "^container c$"):
                await shim.call("c", "create")
            gate.open()
            pid = (await first).pid
            async with refusal(AlreadyExists, "^container c$"):
                await shim.call("c", "create")
        assert (CREATED, pid) == await status_and_pid(shim)
        await shim.exec("c", "e", ["true"])
        async with refusal(AlreadyExists, "^id e$"):
            await shim.exec("c", "e", ["true"])
        assert ["Create", "ExecAdded e"] == [
            f"{kind} e" if kind == "ExecAdded" else kind for kind in shim.kinds()
        ]


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@in_loop
async def test_another_shim_s_container_of_that_id_is_spared(
    tmp_path: Path, runtime: str
) -> None:
    """A Create that meets the container of another shim fails, and harms nobody."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        config = spec(["sleep", "1000"])
        await shim.up("c", config=config)
        pid = (await shim.call("c", "create")).pid
        await shim.up("other", config=config)
        async with refusal(Unknown, f"^{CREATE_FAILED}.*exists"):
            await shim.call(
                "other", "create", id="c", bundle=str(shim.bundles / "other")
            )
        assert (CREATED, pid) == await status_and_pid(shim)
        await shim.call("c", "start")
        assert (RUNNING, pid) == await status_and_pid(shim)


async def status_and_pid(shim: Shim, **fields: Any) -> tuple[int, int]:
    """Return what State says."""
    state = await shim.call("c", "state", **fields)
    return state.status, state.pid


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            PackedAny(type_url="some.Options", value=b"x"),
            NotFound,
            "^type with url some",
        ),
        (
            PackedAny(type_url="containerd.runc.v1.Options", value=b"\xff"),
            InvalidArgument,
            "^options containerd.runc.v1.Options: ",
        ),
    ],
)
@in_loop
async def test_options_of_an_unknown_type_are_refused(
    tmp_path: Path, options: PackedAny, kind: type[DunnageError], text: str
) -> None:
    """What is not known, or not readable, is never taken for no options at all."""
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        async with refusal(kind, text):
            await shim.call("c", "create", options=options)
        await leaves_nothing(shim)


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"bundle": "b"}, InvalidArgument, "^bundle 'b' is not an absolute path$"),
        ({"bundle": "/no/such"}, NotFound, "/no/such.*: no such file or directory$"),
        ({"checkpoint": "x"}, InvalidArgument, "^checkpoint 'x' is not an absolute "),
        ({"stdout": "binary:///bin/true"}, Unknown, "it ended with status 0$"),
        ({"stdout": "smoke:///signal"}, Unknown, "unknown STDIO scheme smoke$"),
        (
            {"stdin": "/no/such"},
            Unknown,
            "stdin fifo /no/such: .*no such file",
        ),
        ({"stderr": "/"}, Unknown, "open /: is a directory$"),
    ],
)
@in_loop
async def test_other_nonsense_is_refused(
    tmp_path: Path, fields: dict[str, Any], kind: type[DunnageError], text: str
) -> None:
    """Each with its own words; nothing is mounted, run or kept."""
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        async with refusal(kind, text):
            await shim.call("c", "create", **fields)
        await leaves_nothing(shim)


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"{", "^spec of exec e: "), (b"[]", "not a JSON object$"), (b"[" * 10**5, "e: ")],
)
@in_loop
async def test_an_exec_s_bad_spec_is_refused(
    tmp_path: Path, value: bytes, text: str
) -> None:
    """Its id is free again."""
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        await shim.call("c", "create")
        async with refusal(Unknown, text):
            await shim.call("c", "exec", exec_id="e", spec={"value": value})
        async with refusal(NotFound, "^process does not exist e$"):
            await shim.call("c", "state", exec_id="e")
        await shim.exec("c", "e", ["true"])


# -- a full disk


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("free_pages", [0, 1, 2])
@in_loop
async def test_a_full_disk_is_refused(
    tmp_path: Path, runtime: str, free_pages: int
) -> None:
    """Whoever meets it, we or the runtime: ResourceExhausted, and nothing left."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        tiny_disk(shim.bundles)
        await shim.up("c")
        fill(shim.bundles, free_pages=free_pages)
        text = "^(OCI runtime create failed|/.*/c/[a-z.-]*): .*no space left on device"
        async with refusal(ResourceExhausted, f"(?i){text}"):
            await shim.call("c", "create")
        assert not (shim.bundles / "c/.options.json").exists()
        await leaves_nothing_on_disk(shim)


async def leaves_nothing_on_disk(shim: Shim) -> None:
    """Check that the shim still answers, and leaves no more than its files."""
    async with refusal(NotFound, "^container not created$"):
        await shim.call("c", "state")
    await shim.call("c", "shutdown")
    assert [] == await shim.gone("c")
    names = {p.name for p in (shim.bundles / "c").iterdir()}
    daemons = {"address", "config.json", "log", "rootfs"}
    runtimes = {"log.json", "init.pid", ".init.pid"}
    assert names <= daemons | runtimes | {"options.json", "runtime", bundle.TRACES}


@in_loop
async def test_a_full_disk_withholds_no_exit(tmp_path: Path) -> None:
    """exit-on-disk: an exit that cannot be written is logged, and said all the same."""
    async with Shim(tmp_path) as shim:
        tiny_disk(shim.bundles)
        await shim.up("c", ["sh", "-c", "read x; exit 8"])
        os.mkfifo(tmp_path / "in")
        await shim.call("c", "create", stdin=str(tmp_path / "in"))
        await shim.call("c", "start")
        await shim.exec("c", "e", ["true"])
        ballast = fill(shim.bundles)
        async with refusal(ResourceExhausted, "(?i)no space left on device"):
            await shim.call("c", "start", exec_id="e")
        assert not list((shim.bundles / "c").glob("exec-*"))
        (tmp_path / "in").write_text("end\n")
        assert 8 == (await shim.call("c", "wait")).exit_status
        assert 8 == (await shim.wait_for_event("TaskExit")).exit_status
        assert bundle.read_exit(str(shim.bundles / "c")) is None
        assert 'msg="the exit is not on disk: ' in shim.log("c")
        assert 8 == (await shim.call("c", "delete")).exit_status
        ballast.unlink()
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")


# -- whatever becomes of the request


@pytest.mark.parametrize("command", ["create", "start"])
@in_loop
async def test_an_operation_outlives_its_connection(
    tmp_path: Path, command: str
) -> None:
    """finishes-what-it-begins: its caller gone, an operation still comes to its end."""
    async with Shim(tmp_path) as shim:
        with gated(shim, command) as gate:
            await shim.up("c", ["sleep", "1000"])
            if command == "start":
                await shim.call("c", "create")
            call = asyncio.create_task(shim.call("c", command))
            await gate.reached()
            await shim.reconnect("c")
            with pytest.raises(ConnectionClosed):
                await call
            gate.open()
            await shim.wait_for_event(f"Task{command.capitalize()}")
        expected = CREATED if command == "create" else RUNNING
        state = await shim.call("c", "state")
        assert expected == state.status
        assert state.pid
        if command == "create":
            await shim.call("c", "start")
        await shim.call("c", "kill", signal=9)
        assert 137 == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete")
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
        assert ["Create", "Start", "Exit", "Delete"] == shim.kinds()


@in_loop
async def test_a_failure_without_a_caller_is_logged(tmp_path: Path) -> None:
    """finishes-what-it-begins: nobody hears of it, so the log does; nothing is left."""
    async with Shim(tmp_path) as shim:
        with gated(shim, "create") as gate:
            await shim.up("c", ["/no/such"])
            call = asyncio.create_task(shim.call("c", "create"))
            await gate.reached()
            await shim.reconnect("c")
            with pytest.raises(ConnectionClosed):
                await call
            gate.open()
            seen = ""
            async with asyncio.timeout(LIMIT_S):
                while "an operation whose caller left has failed" not in seen:
                    seen += shim.log("c")
                    await asyncio.sleep(0.01)
        assert "Traceback" not in seen
        assert " container=c " in seen
        await leaves_nothing(shim)


@in_loop
async def test_a_wait_ends_with_its_connection(tmp_path: Path) -> None:
    """A Wait whose caller is gone harms no other, and a new one hears of the exit."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        server = (await shim.call("c", "connect")).shim_pid
        for _ in range(3):
            waits = [asyncio.create_task(shim.call("c", "wait")) for _ in range(5)]
            await shim.call("c", "connect")  # the waits came before it
            await shim.reconnect("c")
            for wait in waits:
                with pytest.raises(ConnectionClosed):
                    await wait
        sockets = [
            name
            for name in os.listdir(f"/proc/{server}/fd")
            if os.readlink(f"/proc/{server}/fd/{name}").startswith("socket:")
        ]
        waits = [asyncio.create_task(shim.call("c", "wait")) for _ in range(5)]
        await shim.call("c", "connect")
        await shim.call("c", "kill", signal=15)
        await shim.call("c", "kill", signal=9)
        event = await shim.wait_for_event("TaskExit")
        for answer in await asyncio.gather(*waits):
            assert (137, event.exited_at) == (answer.exit_status, answer.exited_at)
        assert "Traceback" not in shim.log("c")
        # The listener, the connection, the publisher's, and the loop's own pair.
        assert len(sockets) <= 5


# -- nobody waits for somebody else


@in_loop
async def test_a_slow_runtime_delays_only_its_container(tmp_path: Path) -> None:
    """One that hangs for a container keeps no other of the same shim from its life."""
    async with Shim(tmp_path) as shim:
        annotations = {"io.kubernetes.cri.sandbox-id": "pod"}
        runtime = shim.runtime
        with gated(shim, "create") as gate:
            await shim.up("a", config=spec(["true"], annotations=annotations))
            slow = asyncio.create_task(shim.call("a", "create"))
            await gate.reached()
            shim.runtime = runtime
            await shim.up("b", config=spec(["sleep", "9"], annotations=annotations))
            began = time.monotonic()
            async with refusal(NotFound, "^container not created$"):
                await shim.call("b", "state", id="a")
            await shim.call("b", "create")
            await shim.call("b", "start")
            assert RUNNING == (await shim.call("b", "state")).status
            await shim.call("b", "kill", signal=9)
            assert 137 == (await shim.call("b", "wait")).exit_status
            await shim.call("b", "delete")
            assert time.monotonic() - began < LIMIT_S / 2
            await shim.call("b", "shutdown")  # a is coming: nobody leaves
            gate.open()
            assert (await slow).pid
        assert ["Create"] == shim.kinds("a")


@in_loop
async def test_a_slow_start_delays_neither_state_nor_kill(tmp_path: Path) -> None:
    """Of the same container, too: what does not need the slow call has its answer."""
    async with Shim(tmp_path) as shim:
        with gated(shim, "exec") as gate:
            await shim.up("c", ["sleep", "1000"])
            await shim.call("c", "create")
            await shim.call("c", "start")
            await shim.exec("c", "e", ["true"])
            slow = asyncio.create_task(shim.call("c", "start", exec_id="e"))
            await gate.reached()
            assert RUNNING == (await shim.call("c", "state")).status
            assert CREATED == (await shim.call("c", "state", exec_id="e")).status
            async with refusal(FailedPrecondition, "^process not created$"):
                await shim.call("c", "kill", exec_id="e", signal=9)
            await shim.exec("c", "f", ["true"])
            await shim.call("c", "delete", exec_id="f")
            gate.open()
            await slow
            assert 0 == (await shim.call("c", "wait", exec_id="e")).exit_status


# -- exit and output


@in_loop
async def test_an_exit_never_waits_for_output(tmp_path: Path) -> None:
    """Nobody reads what it wrote: the exit is said all the same, and output waits."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sh", "-c", "echo last words; exit 3"])
        out = tmp_path / "out"
        os.mkfifo(out)
        await shim.call("c", "create", stdout=str(out))
        await shim.call("c", "start")
        assert 3 == (await shim.call("c", "wait")).exit_status
        assert 3 == (await shim.wait_for_event("TaskExit")).exit_status
        # A client that comes after the exit, before Delete, finds it all.
        reader = asyncio.create_task(asyncio.to_thread(out.read_bytes))
        await shim.call("c", "delete")
        assert b"last words\n" == await reader


@in_loop
async def test_delete_waits_for_output_that_moves(tmp_path: Path) -> None:
    """A slow reader gets everything before Delete answers."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sh", "-c", "yes | head -c 50000; exit 3"])
        out = tmp_path / "out"
        os.mkfifo(out)
        await shim.call("c", "create", stdout=str(out))
        got: list[int] = []

        def read_slowly() -> None:
            fd = os.open(out, os.O_RDONLY)
            while data := os.read(fd, 5000):
                got.append(len(data))
                time.sleep(0.03)
            os.close(fd)

        reader = asyncio.create_task(asyncio.to_thread(read_slowly))
        await shim.call("c", "start")
        await shim.call("c", "wait")
        assert sum(got) < 50000
        await shim.call("c", "delete")
        assert sum(got) == 50000
        await reader


@in_loop
async def test_a_grandchild_with_the_output_does_not_hold_delete(
    tmp_path: Path,
) -> None:
    """A daemonised process keeps stdout without a word: Delete takes about a second."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        async with fifo_reader(tmp_path / "out") as said:
            script = "echo done; sleep 1000 & exit 4"
            await shim.exec(
                "c", "e", ["sh", "-c", script], stdout=str(tmp_path / "out")
            )
            await shim.call("c", "start", exec_id="e")
            assert 4 == (await shim.call("c", "wait", exec_id="e")).exit_status
            began = time.monotonic()
            deleted = await shim.call("c", "delete", exec_id="e")
            assert time.monotonic() - began < 1.5
            assert 4 == deleted.exit_status
            assert b"done\n" == await said
        # The grandchild lives on.
        assert 2 == len((await shim.call("c", "pids")).processes)


# -- and after the shim's end


@in_loop
async def test_a_container_whose_create_was_cut_short_is_buried(tmp_path: Path) -> None:
    """The shim is killed after its runtime made the container: `delete` finds it."""
    async with Shim(tmp_path) as shim:
        program = tmp_path / "late"
        at_end = tmp_path / "at-end"
        program.write_text(
            '#!/bin/sh\nrunc "$@"\n'
            f'case "$*" in *create*) : >{at_end}; exec sleep 1000;; esac\n'
        )
        program.chmod(0o755)
        shim.runtime = str(program)
        await shim.up("c", ["sleep", "1000"])
        create = asyncio.create_task(shim.call("c", "create"))
        await until(at_end.exists)
        await shim.kill_shim("c")
        with pytest.raises(DunnageError):
            await create
        assert shim.leftovers("c")
        done = shim.delete_action("c")
        assert (0, b"") == (done.returncode, done.stderr)
        said = wire.parse_deleted(done.stdout)
        assert 137 == said.exit_status
        assert said.pid
        assert [] == await shim.gone("c")
        assert json.loads((shim.bundles / "c" / bundle.OPTIONS).read_text())
