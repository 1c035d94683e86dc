"""Bytes from strangers: an answer or a closed connection, and the shim goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.ttrpc.notes import data_frame, request_frame, response_frame

from dunnage.api import process_pb2
from dunnage.api import task_v2_pb2 as pb
from dunnage.api.services import TASK_V2
from dunnage.bootstrap import address
from dunnage.errors import (
    AlreadyExists,
    DunnageError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    Unknown,
)
from dunnage.ttrpc.frames import (
    HEADER_BYTES,
    MAX_DATA_BYTES,
    Frame,
    FrameBuffer,
    FrameType,
    encode_frame,
)
from dunnage.ttrpc.services import Method
from dunnage.ttrpc.wire_pb2 import Request, Response

from .harness import LIMIT_S, Shim, in_loop, proc_status, process, spec, until

pytestmark = pytest.mark.slow

TASK = "containerd.task.v2.Task"
MARK = 0x7FFF_FFFF
CROWD = 10_000
LONG = "x" * (MAX_DATA_BYTES - 4096)
DEEP = b"[" * 5000 + b"]" * 5000


def fds_of(pid: int) -> list[str]:
    """Return what the descriptors of a process are."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return sorted(found)


@contextlib.asynccontextmanager
async def unharmed(shim: Shim) -> AsyncIterator[str]:
    """Run a container "c", give the path of the shim's socket, look how all is after.

    The container can be controlled, and the shim holds no descriptor more than before.
    """
    await shim.up("c", ["sleep", "1000"])
    await shim.call("c", "create")
    await shim.call("c", "start")
    await controllable(shim, "before")
    pid = (await shim.call("c", "connect")).shim_pid
    before = len(fds_of(pid))
    yield address.unix_name(address.socket_address(shim.address, shim.namespace, "c"))
    await controllable(shim, "after")
    await until(lambda: len(fds_of(pid)) <= before)
    assert pid == (await shim.call("c", "connect")).shim_pid
    await shim.call("c", "kill", signal=9)
    assert 137 == (await shim.call("c", "wait")).exit_status
    await shim.call("c", "delete")
    await shim.call("c", "shutdown")
    assert [] == await shim.gone("c")


async def controllable(shim: Shim, exec_id: str) -> None:
    """Check that State, Exec and Kill do what they should."""
    state = await shim.call("c", "state")
    assert process_pb2.RUNNING == state.status
    await shim.exec("c", exec_id, ["sleep", "1000"])
    await shim.call("c", "start", exec_id=exec_id)
    await shim.call("c", "kill", exec_id=exec_id, signal=15)
    assert 143 == (await shim.call("c", "wait", exec_id=exec_id)).exit_status
    await shim.call("c", "delete", exec_id=exec_id)


# -- frames


async def talk(path: str, data: bytes) -> list[tuple[int, int, str]]:
    """Send bytes on a connection of their own, then a Connect; return what came before.

    The answers have stream id, code and text; a closed connection is (0, 0, "closed").
    """
    loop = asyncio.get_running_loop()
    answers: list[tuple[int, int, str]] = []
    with socket.socket(socket.AF_UNIX) as sock:
        await asyncio.to_thread(sock.connect, path)  # waits while the backlog is full
        sock.setblocking(False)
        mark = request_frame(MARK, TASK, "Connect")
        sending = asyncio.ensure_future(loop.sock_sendall(sock, data + mark))
        buffer = FrameBuffer()
        async with asyncio.timeout(LIMIT_S):
            while received := await loop.sock_recv(sock, 1 << 16):
                buffer.feed(received)
                for frame in buffer:
                    assert isinstance(frame, Frame)
                    assert frame.type == FrameType.RESPONSE
                    if frame.stream_id == MARK:
                        await sending
                        return answers
                    status = Response.FromString(frame.data).status
                    answers.append((frame.stream_id, status.code, status.message))
        sending.cancel()
        return [*answers, (0, 0, "closed")]


def header(length: int, stream_id: int, kind: int, flags: int = 0) -> bytes:
    """Return a header alone."""
    return (
        encode_frame(Frame(stream_id, kind, flags))[4:]
        .rjust(HEADER_BYTES, b"\0")
        .replace(b"\0\0\0\0", length.to_bytes(4, "big"), 1)
    )


def wait_frame(stream_id: int, flags: int = 0, id_: str = "c") -> bytes:
    """Return a Wait for the container's exit: a request that stays in flight."""
    payload = pb.WaitRequest(id=id_).SerializeToString()
    return request_frame(stream_id, TASK, "Wait", payload, flags)


def timed_frame(stream_id: int, timeout_nano: int) -> bytes:
    """Return a Connect with a timeout."""
    request = Request(service=TASK, method="Connect", timeout_nano=timeout_nano)
    data = request.SerializeToString()
    return encode_frame(Frame(stream_id, FrameType.REQUEST, 0, data))


# What is sent, and the start of each answer.
FRAMES: dict[str, tuple[bytes, list[tuple[int, int, str]]]] = {
    "nothing": (b"", []),
    "too long": (
        header(MAX_DATA_BYTES + 1, 1, 1) + bytes(MAX_DATA_BYTES + 1),
        [(1, 8, "message length 4194305 exceed maximum message size of 4194304")],
    ),
    "zeros as long as can be": (
        encode_frame(Frame(1, 1, 0, bytes(MAX_DATA_BYTES))),
        [(1, 3, "unmarshal request error: ")],
    ),
    "no request": (encode_frame(Frame(1, 1, 0, b"\xff\xff")), [(1, 3, "unmarshal")]),
    "an empty request": (encode_frame(Frame(1, 1)), [(1, 12, "service ")]),
    "a long name": (request_frame(1, LONG), [(1, 12, "service xxx")]),
    "no such service": (request_frame(1, "no.S"), [(1, 12, "service no.S")]),
    "no such method": (request_frame(1, TASK, "No"), [(1, 12, "method No")]),
    "no such payload": (
        request_frame(1, TASK, "State", b"\xff"),
        [(1, 13, "ttrpc: error unmarshalling payload: ")],
    ),
    "groups in groups": (
        request_frame(1, TASK, "State", b"\xfb\x07" * 5000),
        [(1, 13, "ttrpc: error unmarshalling payload: ")],
    ),
    "unknown fields": (
        request_frame(1, TASK, "Connect", b"\xf8\x07\x01" * 5000),
        [(1, 0, "")],
    ),
    "even ids": (
        request_frame(2) + request_frame(0),
        [(id_, 3, "StreamID must be odd for client init") for id_ in (2, 0)],
    ),
    "an id in flight": (
        wait_frame(1) + wait_frame(1),
        [(1, 3, "StreamID cannot be re-used and must increment")],
    ),
    "unknown types": (
        b"".join(encode_frame(Frame(1, kind, 7, b"x")) for kind in (0, 4, 99, 255)),
        [],
    ),
    "a response": (response_frame(1, b"x"), []),
    "unknown flags": (request_frame(1, TASK, "Connect", b"", 0xF8), [(1, 0, "")]),
    "an open unary call": (request_frame(1, TASK, "Connect", b"", 2), [(1, 0, "")]),
    "data for nobody": (data_frame(5, b"x"), [(5, 3, "StreamID is no longer active")]),
    "data for a unary call": (
        wait_frame(1) + data_frame(1, b"x"),
        [(1, 3, "StreamID is of a unary call")],
    ),
    "data for an open unary call": (wait_frame(1, 2) + data_frame(1, b"x", 1), []),
    "no time": (timed_frame(1, 0), [(1, 0, "")]),
    "less than no time": (timed_frame(1, -(2**63)), [(1, 0, "")]),
    "all the time": (timed_frame(1, 2**63 - 1), [(1, 0, "")]),
}


@in_loop
async def test_every_frame_is_answered_or_ignored(tmp_path: Path) -> None:
    """What breaks a rule of the wire has its answer, and the connection goes on."""
    async with Shim(tmp_path) as shim, unharmed(shim) as path:
        for name, (data, expected) in FRAMES.items():
            answers = await talk(path, data)
            cut = [
                (id_, code, text[: len(start[2])])
                for (id_, code, text), start in zip(answers, expected, strict=False)
            ]
            assert expected == cut, name
            assert len(expected) == len(answers), (name, answers)


def garbled(data: bytes, chance: random.Random) -> bytes:
    """Return frames of which some bytes are others, are missing, or are there twice."""
    made = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(made))
        few = chance.choice([1, 1, 1, 4, 40])
        match chance.randrange(4):
            case 0:
                made[at : at + few] = chance.randbytes(few)
            case 1:
                made[at] = chance.choice([0, 1, 2, 0x7F, 0x80, 0xFF])
            case 2:
                made[at:at] = made[at : at + few]
            case 3 if len(made) > few:
                del made[at : at + few]
    return bytes(made)


async def until_the_end(path: str, data: bytes) -> None:
    """Send bytes, hang up, and expect the other side to do so, too."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.setblocking(False)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await loop.sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(ConnectionResetError):
                while await loop.sock_recv(sock, 1 << 16):
                    pass


@pytest.mark.parametrize("seed", range(3))
@in_loop
async def test_garbled_frames(tmp_path: Path, seed: int) -> None:
    """Whatever becomes of requests on their way: nobody hangs, and the shim lives."""
    chance = random.Random(seed)
    harmless: list[Method[Any, Any]] = [
        *(TASK_V2.state, TASK_V2.wait, TASK_V2.pids, TASK_V2.connect),
        *(TASK_V2.exec, TASK_V2.resize_pty, TASK_V2.close_io, TASK_V2.stats),
    ]
    frames = [
        request_frame(
            2 * number + 1,
            method.service,
            method.name,
            method.request(id="c").SerializeToString(),
        )
        for number, method in enumerate(harmless)
    ]
    frames += [data_frame(1, b"x"), response_frame(3, b"x")]
    async with Shim(tmp_path) as shim, unharmed(shim) as path:
        for _ in range(300):
            chosen = b"".join(chance.choices(frames, k=chance.randrange(1, 9)))
            await until_the_end(path, garbled(chosen, chance))
        assert "Traceback" not in shim.log("c")


@in_loop
async def test_a_connection_may_end_anywhere(tmp_path: Path) -> None:
    """In a header, in a frame, behind calls: what it left is dropped."""
    whole = wait_frame(1) + wait_frame(3)
    async with Shim(tmp_path) as shim, unharmed(shim) as path:
        for length in range(len(whole)):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                sock.sendall(whole[:length])


@in_loop
async def test_a_peer_that_reads_nothing_is_read_no_more(tmp_path: Path) -> None:
    """Its answers are kept within a limit; memory does not follow what it sends."""
    async with Shim(tmp_path) as shim, unharmed(shim) as path:
        pid = (await shim.call("c", "connect")).shim_pid
        before = memory_of(pid)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.settimeout(0.2)
            data = request_frame(1, "s" * 1000) * 1000
            with contextlib.suppress(TimeoutError):
                for _ in range(100):
                    sock.sendall(data)
                pytest.fail("100 MB of requests were taken, and not one answer")
            await controllable(shim, "meanwhile")
            assert memory_of(pid) - before < 16 << 20


def memory_of(pid: int) -> int:
    """Return how many bytes of memory a process has."""
    return int(proc_status(pid)["VmRSS"].removesuffix(" kB")) << 10


# -- a crowd


@contextlib.contextmanager
def crowd(path: str, count: int, data: bytes) -> Any:
    """Open connections that each send the same bytes; return them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with contextlib.ExitStack() as undo:
            opened: list[socket.socket] = []
            while len(opened) < min(count, hard - 200):
                sock = undo.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(path)  # waits for its place in the backlog
                with contextlib.suppress(BrokenPipeError):
                    sock.sendall(data)
                opened.append(sock)
            yield opened
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


async def idle(shim: Shim, pid: int) -> None:
    """Check that the shim sleeps while a process in the container does."""
    await shim.exec("c", "nap", ["sleep", "1"])
    await shim.call("c", "start", exec_id="nap")
    before = cpu_s(pid)
    await shim.call("c", "wait", exec_id="nap")
    assert cpu_s(pid) - before < 0.3
    await shim.call("c", "delete", exec_id="nap")


@pytest.mark.parametrize("most", [256, 0])
@in_loop
async def test_a_crowd_of_half_frames(tmp_path: Path, most: int) -> None:
    """Who speaks is served, old or new; the shim keeps fds for its own work, and idles.

    With few descriptors, and with as many as the machine allows.
    """
    async with Shim(tmp_path) as shim:
        if most:
            shim.start_prefix = ["prlimit", f"--nofile={most}:{most}"]
        half = wait_frame(1)[:-1]
        async with unharmed(shim) as path:
            pid = (await shim.call("c", "connect")).shim_pid
            before, limit = memory_of(pid), most or 20_000
            with crowd(path, CROWD if not most else 1000, half):
                await controllable(shim, "meanwhile")
                assert len(fds_of(pid)) < limit // 2 + 30
                assert memory_of(pid) - before < 64 << 20
                assert [] == await talk(path, b"")
                await idle(shim, pid)


@in_loop
async def test_descriptors_that_run_out_under_a_crowd(tmp_path: Path) -> None:
    """EMFILE in accept: a silent connection goes, and who speaks is served."""
    async with Shim(tmp_path) as shim, unharmed(shim) as path:
        pid = (await shim.call("c", "connect")).shim_pid
        old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, old[1]))
        with crowd(path, 200, b"\0"):
            assert process_pb2.RUNNING == (await shim.call("c", "state")).status
            assert [] == await talk(path, b"")
            await shim.exec("c", "e", ["true"])
            with pytest.raises(ResourceExhausted):
                await shim.call("c", "start", exec_id="e")
            await shim.call("c", "delete", exec_id="e")
        await until(lambda: len(fds_of(pid)) < 40)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)


# -- peers


STRANGER = """
import ctypes, os, socket, sys
os.setgroups([])
os.setresgid(*[int(sys.argv[3])] * 3)
os.setresuid(0, int(sys.argv[2]), 0)
ctypes.CDLL(None).setfsuid(0)  # the directory of the sockets lets nobody else in
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.settimeout(10)
try:
    sock.sendall(sys.stdin.buffer.read())
    print("answered" if sock.recv(1) else "closed")
except (BrokenPipeError, ConnectionResetError):
    print("closed")
"""


@pytest.mark.parametrize(
    ("uid", "gid", "said"),
    [(0, 0, "answered"), (1234, 1234, "closed"), (1234, 0, "closed"), (0, 7, "closed")],
)
@in_loop
async def test_only_its_own_user_may_speak(
    tmp_path: Path, uid: int, gid: int, said: str
) -> None:
    """Even where the file would let others in: they are closed without a byte."""
    async with Shim(tmp_path) as shim, unharmed(shim) as path:
        Path(path).chmod(0o666)
        argv = [sys.executable, "-I", "-c", STRANGER, path, str(uid), str(gid)]
        done = await asyncio.to_thread(
            subprocess.run,
            argv,
            input=request_frame(1, TASK, "Connect"),
            capture_output=True,
            check=True,
            timeout=LIMIT_S,
        )
        assert said == done.stdout.decode().strip()


# -- requests


def an_exec(value: object, **fields: Any) -> dict[str, Any]:
    """Return the fields of an Exec, with a spec of this JSON or these bytes."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return {"exec_id": "e", "spec": {"type_url": "x", "value": data}} | fields


HUGE = 2**32 - 1

NO_SPECS: list[object] = [
    *(b"", b"{", b"\0", b"\xff\xfe{\0}\0", DEEP),
    *(None, [], 1, "x"),
]
ODD: list[tuple[str, dict[str, Any], type[DunnageError] | None]] = [
    ("create", {}, AlreadyExists),
    *[
        ("create", {"id": bad}, InvalidArgument)
        for bad in ("", ".", "..", "a/b", "a\0b", "a" * 300, "-a", LONG)
    ],
    *[
        ("create", {"id": "n", "bundle": bad}, kind)
        for bad, kind in {
            "": InvalidArgument,
            "b": InvalidArgument,
            "/no\0where": InvalidArgument,
            "/nowhere": NotFound,
        }.items()
    ],
    ("state", {"id": "a\0"}, NotFound),
    ("state", {"id": LONG}, NotFound),
    ("state", {"exec_id": "a/../b"}, NotFound),
    ("start", {}, Unknown),
    ("start", {"exec_id": "nobody"}, NotFound),
    ("start", {"exec_id": LONG}, NotFound),
    ("delete", {"exec_id": "a\0"}, NotFound),
    ("wait", {"exec_id": LONG[:-100]}, NotFound),
    ("kill", {"exec_id": "nobody", "signal": HUGE}, NotFound),
    ("kill", {"signal": HUGE}, Unknown),
    ("kill", {"signal": HUGE, "all": True}, None),  # runc does not look at errors
    ("resize_pty", {"width": HUGE, "height": HUGE}, None),
    ("close_io", {"exec_id": "nobody", "stdin": True}, NotFound),
    *[
        ("exec", an_exec({}, exec_id=bad), InvalidArgument)
        for bad in ("", ".", "a/b", "a\0b", "a" * 300, LONG)
    ],
    *[("exec", an_exec(bad), Unknown) for bad in NO_SPECS],
    ("exec", an_exec(b'{"a":' + DEEP + b"}"), Unknown),
    ("exec", an_exec(b'{"a":' + b"9" * 5000 + b"}"), Unknown),
]


@in_loop
async def test_odd_requests(tmp_path: Path) -> None:
    """Each has an answer of its kind, and leaves nothing."""
    async with Shim(tmp_path) as shim, unharmed(shim):
        for method, fields, kind in ODD:
            said: object = None
            try:
                await shim.call("c", method, **fields)
            except DunnageError as error:
                said = error
            assert kind is (None if said is None else type(said)), (
                method,
                str(fields)[:99],
                str(said)[:99],
            )
            assert not isinstance(said, Unavailable)
            assert "Error: " not in str(said)[:200], said  # a bug's own words
        log = shim.log("c")
        assert "Traceback" not in log, log


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@in_loop
async def test_execs_that_no_runtime_wants(tmp_path: Path, runtime: str) -> None:
    """Whatever their spec holds, their start is refused, and they can be deleted.

    But crun takes no notice of some that is of a wrong type.
    """
    sleep = ["sleep", "1000"]
    bad: list[dict[str, Any]] = [
        {},
        process([]),
        {"cwd": "/"},
        process(["a\0b"]),
        process(["x" * (3 << 20)]),
        process(sleep, cwd="/no\0where"),
        process(sleep, cwd=7),
        process([]) | {"args": "sleep"},
        process(sleep, user="root"),
    ]
    async with Shim(tmp_path, runtime=runtime) as shim, unharmed(shim):
        for value in bad:
            await shim.call("c", "exec", **an_exec(value))
            try:
                await shim.call("c", "start", exec_id="e")
            except Unknown as error:
                assert str(error).startswith("OCI runtime exec failed: ")  # noqa: PT017  # not of all
            else:
                assert "crun" == runtime
                await shim.call("c", "kill", exec_id="e", signal=9)
                await shim.call("c", "wait", exec_id="e")
            await shim.call("c", "delete", exec_id="e")
        assert not list((shim.bundles / "c").glob("exec-*"))


@in_loop
async def test_an_exec_starts_once(tmp_path: Path) -> None:
    """Its second start is refused, whether it runs or has ended."""
    async with Shim(tmp_path) as shim, unharmed(shim):
        await shim.exec("c", "e", ["sleep", "1000"])
        await shim.call("c", "start", exec_id="e")
        with pytest.raises(Unknown, match=r"^cannot start a "):
            await shim.call("c", "start", exec_id="e")
        await shim.call("c", "kill", signal=9, exec_id="e")
        await shim.call("c", "wait", exec_id="e")
        with pytest.raises(Unknown, match=r"^cannot start a "):
            await shim.call("c", "start", exec_id="e")
        await shim.call("c", "delete", exec_id="e")


@in_loop
async def test_what_nobody_knows_leaves_no_memory(tmp_path: Path) -> None:
    """Start and Delete of execs that are not there keep nothing of their names."""
    async with Shim(tmp_path) as shim, unharmed(shim):
        pid = (await shim.call("c", "connect")).shim_pid
        with pytest.raises(NotFound):
            await shim.call("c", "start", exec_id=LONG)
        before = memory_of(pid)
        for number in range(20):
            for method in ("start", "delete"):
                with pytest.raises(NotFound):
                    await shim.call("c", method, exec_id=f"{number}{LONG[:-99]}")
        assert memory_of(pid) - before < 40 << 20


# -- files


def a_socket(path: Path) -> None:
    """Bind a socket, at which nobody listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def huge(path: Path) -> None:
    """Make a file that is longer than any config.json."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


ODD_FILES: dict[str, Callable[[Path], object]] = {
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
    "socket": a_socket,
    "loop": lambda path: path.symlink_to(path),
    "nothing": str,
    "huge": huge,
    "text": lambda path: path.write_text("no JSON"),
    "deep": lambda path: path.write_bytes(DEEP),
    "null": lambda path: path.write_text("null"),
    "utf16": lambda path: path.write_text('{"linux": {}}', encoding="utf-16"),
}


@pytest.mark.parametrize("kind", ODD_FILES)
@in_loop
async def test_an_odd_config(tmp_path: Path, kind: str) -> None:
    """Start and Create refuse it, and it withholds no exit; nobody waits for it."""
    async with Shim(tmp_path) as shim, unharmed(shim):
        for id_ in ("start", "create", "exit"):
            config = shim.bundle(id_, spec(["sleep", "1000"])) / "config.json"
            if id_ == "exit":
                await shim.call("c", "create", **elsewhere(shim, id_))
                await shim.call("c", "start", id=id_)
            config.unlink()
            if kind != "huge" or id_ != "create":  # runc reads it, whatever it costs
                ODD_FILES[kind](config)
        done = await asyncio.to_thread(shim.start_action, "start")
        assert 1 == done.returncode
        assert b"" == done.stdout
        assert 1 == len(done.stderr.splitlines()), done.stderr
        with pytest.raises((Unknown, InvalidArgument)):
            await shim.call("c", "create", **elsewhere(shim, "create"))
        await shim.call("c", "kill", id="exit", signal=9)
        assert 137 == (await shim.call("c", "wait", id="exit")).exit_status
        await shim.call("c", "delete", id="exit")


def elsewhere(shim: Shim, id_: str) -> dict[str, Any]:
    """Return the fields of a Create of another container in the same shim."""
    return {"id": id_, "bundle": str(shim.bundles / id_)}


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
@in_loop
async def test_odd_stdio(tmp_path: Path, name: str) -> None:
    """What is no sink is refused; a fifo that nobody opens holds nobody up."""
    async with Shim(tmp_path) as shim, unharmed(shim):
        shim.bundle("d", spec(["true"]))
        for kind in ("directory", "socket", "loop", "nothing", "text"):
            path = tmp_path / f"stdio-{kind}"
            ODD_FILES[kind](path)
            with pytest.raises((Unknown, DunnageError, Unimplemented)) as caught:
                await shim.call(
                    "c", "create", **elsewhere(shim, "d") | {name: str(path)}
                )
            assert str(path) in str(caught.value)
        for uri in ("/a\0b", "file://tmp/x", "binary://a", "smoke://x", LONG):
            with pytest.raises(DunnageError):
                await shim.call("c", "create", **elsewhere(shim, "d") | {name: uri})
            if name == "stdout":
                changes = {name: uri, "terminal": True}
                with pytest.raises(DunnageError):
                    await shim.call("c", "create", **elsewhere(shim, "d") | changes)
        os.mkfifo(tmp_path / "f")
        fields = elsewhere(shim, "d") | {name: str(tmp_path / "f")}
        await shim.call("c", "create", **fields)
        await shim.call("c", "start", id="d")
        assert 0 == (await shim.call("c", "wait", id="d")).exit_status
        await shim.call("c", "delete", id="d")
