"""``start`` from outside: its dialects, its one answer, and what it leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.machine import pids_with

from dunnage.api import typeurl
from dunnage.api.bootstrap_pb2 import BootstrapParams, BootstrapResult
from dunnage.api.runc_options_pb2 import Options
from dunnage.bootstrap.flags import STDIN_LIMIT_BYTES
from dunnage.descriptors import Any as PackedAny

from .harness import (
    Shim,
    ended,
    fill,
    in_loop,
    proc_status,
    spec,
    tiny_disk,
)

pytestmark = pytest.mark.slow

NAME = "containerd-shim-dunnage-v2"
GROUP = "io.containerd.runc.v2.group"
SANDBOX = "io.kubernetes.cri.sandbox-id"


def where(shim: Shim, group: str, directory: str = "/run/containerd/s") -> str:
    """Return the address of a group, computed as the contract has it."""
    name = f"{shim.address}/{shim.namespace}/{group}"
    return f"unix://{directory}/{hashlib.sha256(name.encode()).hexdigest()}"


def params(shim: Shim, id_: str, **fields: Any) -> bytes:
    """Return the stdin of a daemon of 2.3."""
    message = BootstrapParams(
        instance_id=id_,
        namespace=shim.namespace,
        containerd_grpc_address=shim.address,
        containerd_ttrpc_address=f"{shim.address}.ttrpc",
        **fields,
    )
    return message.SerializeToString()


@pytest.fixture
def short() -> Iterator[Path]:
    """Give a directory whose name leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="dn-", dir="/tmp") as name:
        yield Path(name) / "s"


def accepts(address: str) -> bool:
    """Whether somebody accepts connections there now."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address.removeprefix("unix://"))
        except OSError:
            return False
    return True


def refused(shim: Shim, done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the one line of a start that has failed, having left nothing behind."""
    assert (1, b"") == (done.returncode, done.stdout)
    line = done.stderr.decode()
    assert line.startswith(f"{NAME}: ")
    assert "\n" not in line
    assert [] == pids_with(shim.namespace)
    return line.removeprefix(f"{NAME}: ")


# -- what goes in, what comes out


@pytest.mark.parametrize("stdin", ["empty", "options", "garbage"])
@in_loop
async def test_a_legacy_stdin_has_a_plain_answer(tmp_path: Path, stdin: str) -> None:
    """start-answers-once: the address alone on stdout, and it accepts at once."""
    async with Shim(tmp_path) as shim:
        bundle = shim.bundle("c", spec(["true"]))
        told = {"empty": b"", "options": None, "garbage": b"\xff\xfe"}[stdin]
        done = shim.start_action("c", told)
        assert accepts(where(shim, "c"))
        assert (0, b"") == (done.returncode, done.stderr)
        assert where(shim, "c").encode() == done.stdout
        assert where(shim, "c") == (bundle / "address").read_text()


@in_loop
async def test_bootstrap_params_have_a_bootstrap_result(
    tmp_path: Path, short: Path
) -> None:
    """A daemon of 2.3 gets version 3 and ttrpc, and may choose the directory."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", spec(["true"]))
        done = shim.start_action("c", params(shim, "c", socket_dir=str(short)))
        result = BootstrapResult.FromString(done.stdout)
        assert accepts(result.address)
        assert (0, b"") == (done.returncode, done.stderr)
        assert (3, "ttrpc") == (result.version, result.protocol)
        assert where(shim, "c", str(short)) == result.address
        assert 0o700 == stat.S_IMODE(short.stat().st_mode)
        path = result.address.removeprefix("unix://")
        assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)


@in_loop
async def test_options_that_look_like_params_do_not_merge_shims(tmp_path: Path) -> None:
    """A legacy Any that parses as BootstrapParams is still one; every id has a shim."""
    async with Shim(tmp_path) as shim:
        told = typeurl.pack(Options(binary_name="runc")).SerializeToString()
        misread = BootstrapParams.FromString(told)
        assert "containerd.runc.v1.Options" == misread.instance_id
        addresses = []
        for id_ in ("a", "b"):
            shim.bundle(id_, spec(["true"]))
            addresses.append(shim.start_action(id_, told).stdout.decode())
        assert [where(shim, "a"), where(shim, "b")] == addresses
        # Nor do params that are meant for another task count as such.
        shim.bundle("c", spec(["true"]))
        done = shim.start_action("c", params(shim, "other"))
        assert where(shim, "c").encode() == done.stdout


@in_loop
async def test_too_much_stdin_is_refused(tmp_path: Path) -> None:
    """More than 10 MiB on stdin is an error, not a reason to use memory."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", spec(["true"]))
        done = shim.start_action("c", bytes(STDIN_LIMIT_BYTES + 1))
        assert "stdin is longer than" in refused(shim, done)
        most = PackedAny(type_url="x", value=bytes(STDIN_LIMIT_BYTES - 16))
        assert 0 == shim.start_action("c", most.SerializeToString()).returncode


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (None, "open config.json: no such file or directory"),
        ("", "config.json: Expecting value"),
        ('{"annotations": ', "config.json: Expecting value"),
        ("[]", "config.json: not a JSON object"),
        ("[" * 100_000, "config.json: "),
        (f'{{"annotations": {{"{GROUP}": "../other/id"}}}}', "has '..' in it"),
    ],
)
@in_loop
async def test_a_bad_config_starts_nothing(
    tmp_path: Path, short: Path, config: str | None, text: str
) -> None:
    """Without a config.json that can be read: one line on stderr, and nothing else."""
    async with Shim(tmp_path) as shim:
        bundle = shim.bundle("c", config or "")
        if config is None:
            (bundle / "config.json").unlink()
        done = shim.start_action("c", params(shim, "c", socket_dir=str(short)))
        assert text in refused(shim, done)
        assert not short.exists()


@pytest.mark.parametrize("bad", ["", "..", "a/b", "../a", "a\n", "é", "a" * 77])
@in_loop
async def test_a_bad_name_starts_nothing(tmp_path: Path, bad: str) -> None:
    """An id or namespace that is no identifier is refused before anything is done."""
    async with Shim(tmp_path) as shim:
        bundle = shim.bundle("c", spec(["true"]))
        done = shim.start_action(bad, b"", cwd=bundle)
        line = refused(shim, done)
        assert line.startswith("container id ")
        argv = shim.flags("c", "start")
        if bad:
            argv[argv.index(shim.namespace)] = bad
            done = subprocess.run(argv, capture_output=True, cwd=bundle, check=False)
            assert refused(shim, done).startswith("namespace ")
        assert {"config.json", "log", "rootfs"} == {p.name for p in bundle.iterdir()}


@pytest.mark.parametrize("directory", ["relative", "/" + "d" * 60])
@in_loop
async def test_a_bad_socket_directory_starts_nothing(
    tmp_path: Path, directory: str
) -> None:
    """A directory that is relative, or too long for a socket, is refused."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", spec(["true"]))
        done = shim.start_action("c", params(shim, "c", socket_dir=directory))
        assert "socket directory" in refused(shim, done)


@in_loop
async def test_a_full_disk_starts_nothing(tmp_path: Path) -> None:
    """A bundle that takes no file: one line with the reason; no socket, no process."""
    async with Shim(tmp_path) as shim:
        tiny_disk(shim.bundles)
        bundle = shim.bundle("c", spec(["true"]))
        fill(shim.bundles)
        done = shim.start_action("c")
        assert "o space left on device" in refused(shim, done)
        assert not Path(where(shim, "c").removeprefix("unix://")).exists()
        assert {"config.json", "log", "rootfs"} == {p.name for p in bundle.iterdir()}


# -- one shim for a group


@in_loop
async def test_a_group_shares_a_shim(tmp_path: Path) -> None:
    """The second start of a group starts nothing and gives the same address."""
    async with Shim(tmp_path) as shim:
        for id_, annotations in (
            ("a", {SANDBOX: "pod"}),
            ("b", {SANDBOX: "pod"}),
            ("c", {GROUP: "pod", SANDBOX: "other"}),
            ("d", {SANDBOX: "other", GROUP: ""}),
        ):
            shim.bundle(id_, spec(["true"], annotations=annotations))
        for id_ in ("a", "b", "c"):
            done = shim.start_action(id_)
            assert where(shim, "pod").encode() == done.stdout
            written = (shim.bundles / id_ / "address").read_text()
            assert where(shim, "pod") == written
            assert 1 == len(pids_with(shim.namespace))
        assert where(shim, "other").encode() == shim.start_action("d").stdout
        assert 2 == len(pids_with(shim.namespace))


@in_loop
async def test_starts_that_race_make_one_shim(tmp_path: Path) -> None:
    """Two starts of a group at a time: one server, one address, stale socket or not."""
    async with Shim(tmp_path) as shim:
        config = spec(["true"], annotations={GROUP: "pod"})
        for id_ in ("a", "b"):
            shim.bundle(id_, config)
        path = Path(where(shim, "pod").removeprefix("unix://"))
        for round_ in range(20):
            starts = [asyncio.to_thread(shim.start_action, id_) for id_ in ("a", "b")]
            for done in await asyncio.gather(*starts):
                assert (0, b"") == (done.returncode, done.stderr)
                assert f"unix://{path}" == done.stdout.decode()
            assert accepts(f"unix://{path}")
            (pid,) = pids_with(shim.namespace)
            os.kill(pid, signal.SIGKILL)
            await ended(pid)
            assert path.is_socket()  # stale: for every other round
            if round_ % 2:
                path.unlink()


# -- the server's surroundings


@in_loop
async def test_the_server_stands_apart(tmp_path: Path) -> None:
    """Its own process group, in a session of others; a child of nobody who waits."""
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        pid = (await shim.call("c", "connect")).shim_pid
        assert pid == os.getpgid(pid)
        assert pid != os.getsid(pid)
        assert str(os.getpid()) != proc_status(pid)["PPid"]
        assert str(shim.bundles / "c") == os.readlink(f"/proc/{pid}/cwd")


@pytest.mark.parametrize("log", [True, False])
@in_loop
async def test_the_server_holds_no_stranger_s_fd(tmp_path: Path, log: bool) -> None:
    """0 and 1 are /dev/null, 2 is the log if there is one; nothing was inherited."""
    async with Shim(tmp_path) as shim:
        bundle = shim.bundle("c", spec(["true"]))
        if not log:
            (bundle / "log").unlink()
        read_end, write_end = os.pipe()
        secret = os.open(tmp_path, os.O_RDONLY)
        try:
            stolen = {os.readlink(f"/proc/self/fd/{fd}") for fd in (read_end, secret)}
            fds = (read_end, write_end, secret)
            done = shim.start_action("c", pass_fds=fds)
        finally:
            for fd in (read_end, write_end, secret):
                os.close(fd)
        await shim.connect("c", done.stdout)
        pid = (await shim.call("c", "connect")).shim_pid
        held = {int(p.name): os.readlink(p) for p in Path(f"/proc/{pid}/fd").iterdir()}
        expected = ["/dev/null", "/dev/null", str(bundle / "log")]
        assert (expected if log else ["/dev/null"] * 3) == [held[n] for n in range(3)]
        assert not stolen & set(held.values())
        kinds = {re.sub(r"\d+", "N", held[n]) for n in held if n > 2}
        kinds -= {f"/memfd:{runtime} (deleted)" for runtime in ("runc", "crun")}
        assert kinds <= {"socket:[N]", "anon_inode:[eventpoll]", "pipe:[N]"}


@pytest.mark.parametrize(("daemon", "expected"), [(3, 4), (999, 1000), (1000, 1000)])
@in_loop
async def test_the_oom_score_is_the_daemon_s_and_one(
    tmp_path: Path, daemon: int, expected: int
) -> None:
    """The server is a likelier victim than the daemon, as far as there is room."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", spec(["true"]))
        # The daemon, with a helper whose own score is another.
        script = f'echo {daemon} >/proc/self/oom_score_adj; "$@"; exit'  # no exec by sh
        done = shim.start_action("c", prefix=["sh", "-c", script, "daemon"])
        assert (0, b"") == (done.returncode, done.stderr)
        (pid,) = pids_with(shim.namespace)
        assert expected == int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.parametrize(
    "prefix",
    [
        # The score may not be lowered without CAP_SYS_RESOURCE.
        [
            "sh",
            "-c",
            (
                "echo 1000 >/proc/self/oom_score_adj;"
                'exec setpriv --bounding-set=-sys_resource "$@"'
            ),
            "daemon",
        ],
        # Its parent is in another pid namespace, and has no number in this one.
        ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"],
    ],
    ids=["forbidden", "unknown"],
)
@in_loop
async def test_an_oom_score_that_cannot_be_set_is_no_reason_to_fail(
    tmp_path: Path, prefix: list[str]
) -> None:
    """A shim with the wrong score is better than none."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", spec(["true"]))
        done = shim.start_action("c", prefix=prefix)
        assert (0, b"") == (done.returncode, done.stderr)
        assert where(shim, "c").encode() == done.stdout


@in_loop
async def test_a_start_is_quick(tmp_path: Path) -> None:
    """Nothing in a start waits: it ends long before a daemon grows impatient."""
    async with Shim(tmp_path) as shim:
        shim.bundle("c", json.dumps({"annotations": {}}))
        began = time.monotonic()
        assert 0 == shim.start_action("c").returncode
        assert time.monotonic() - began < 5
