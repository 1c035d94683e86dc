"""What options do, with real runtimes: those of runc's dialect, and in TOML."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.machine import cgroups_named, pids_with

from dunnage.api import typeurl
from dunnage.api.legacy_options_pb2 import CreateOptions
from dunnage.api.runtime_options_pb2 import Options as RuntimeOptions
from dunnage.api.task_v2_pb2 import DeleteResponse
from dunnage.errors import FailedPrecondition, InvalidArgument

from .harness import Shim, fifo_reader, in_loop, spec

pytestmark = pytest.mark.slow

runtimes = pytest.mark.parametrize("runtime", ["runc", "crun"])
cold_too = pytest.mark.parametrize(
    "environment", [{}, {"DUNNAGE_FORKSERVER": "off"}], ids=["warm", "cold"]
)


def wrapper(directory: Path, name: str, runtime: str) -> Path:
    """Make a runtime that is a script around another, and tells that it was called."""
    program = directory / name
    program.write_text(f'#!/bin/sh\necho "$@" >>{program}.calls\nexec {runtime} "$@"\n')
    program.chmod(0o755)
    return program


def toml(text: str = "", path: Path | str = "") -> Any:
    """Pack what Kubernetes and Docker send to a runtime whose name they do not know."""
    message = RuntimeOptions(
        type_url="x", config_body=text.encode(), config_path=str(path)
    )
    return typeurl.pack(message)


@runtimes
@pytest.mark.parametrize("way", ["body", "file"])
@in_loop
async def test_a_wrapper_s_life_by_options_in_toml(
    tmp_path: Path, runtime: str, way: str
) -> None:
    """Each of its calls is the wrapper's, with the root of its own; so is `delete`."""
    program = wrapper(tmp_path, "nvidia-container-runtime", runtime)
    root = tmp_path / "root"
    text = f'BinaryName = "{program}"\nRoot = "{root}"\nNoNewKeyring = true\n'
    (tmp_path / "options.toml").write_text(text)
    packed = toml(text) if way == "body" else toml(path=tmp_path / "options.toml")
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sh", "-c", "echo out; exec sleep 1000"])
        async with fifo_reader(tmp_path / "out") as said:
            stdout = str(tmp_path / "out")
            await shim.call("c", "create", options=packed, stdout=stdout)
            assert (root / shim.namespace / "c").is_dir()
            await shim.call("c", "start")
            await shim.exec("c", "e", ["true"])
            await shim.call("c", "start", exec_id="e")
            assert 0 == (await shim.call("c", "wait", exec_id="e")).exit_status
            assert (await shim.call("c", "pids")).processes
            await shim.call("c", "pause")
            await shim.call("c", "resume")
            await shim.call("c", "kill", signal=9)
            assert 137 == (await shim.call("c", "wait")).exit_status
            await shim.call("c", "delete")
            assert b"out\n" == await said
        assert not (root / shim.namespace / "c").exists()
        calls = Path(f"{program}.calls").read_text()
        for word in ("create", "start", "exec", "ps", "pause", "resume", "kill"):
            assert f" {word} " in calls
        assert " --no-new-keyring c\n" in calls

        await shim.up("d", ["sleep", "1000"])
        await shim.call("d", "create", options=packed)
        await shim.call("d", "start")
        await shim.kill_shim("d")
        done = shim.delete_action("d")
        assert 137 == DeleteResponse.FromString(done.stdout).exit_status
        assert not (root / shim.namespace / "d").exists()
        calls = Path(f"{program}.calls").read_text()
        assert f"--root {root}/{shim.namespace} delete --force d\n" in calls


@runtimes
@in_loop
async def test_a_runtime_by_name(tmp_path: Path, runtime: str) -> None:
    """Another runtime that is found by PATH, and none that is not."""
    (tmp_path / "bin").mkdir()
    program = wrapper(tmp_path / "bin", "youki", runtime)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    async with Shim(tmp_path, environment={"PATH": path}) as shim:
        await shim.up("c", ["sh", "-c", "exit 3"])
        await shim.call("c", "create", options=toml('BinaryName = "youki"'))
        await shim.call("c", "start")
        assert 3 == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete")
        assert " create " in Path(f"{program}.calls").read_text()
        assert ["Create", "Start", "Exit", "Delete"] == shim.kinds("c")


@in_loop
async def test_options_that_make_no_sense(tmp_path: Path) -> None:
    """A clear error that names what is wrong, and nothing is left of that create."""
    (tmp_path / "bad.toml").write_text("Runtime = 1")
    async with Shim(tmp_path) as shim:
        await shim.up("c")
        for packed, said in (
            (toml('Binary = "runc"'), "config_body: unknown option Binary "),
            (toml("BinaryName = runc"), "config_body: Invalid value"),
            (toml(path=tmp_path / "bad.toml"), "bad.toml: unknown option Runtime "),
            (toml(path="/none"), "config_path /none: no such file or directory"),
        ):
            with pytest.raises(InvalidArgument, match=said):
                await shim.call("c", "create", options=packed)
        await shim.call("c", "create")
        await shim.call("c", "delete")


@in_loop
async def test_options_of_old_clients(tmp_path: Path) -> None:
    """Those of the 1.6 era have a container by runc."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sh", "-c", "exit 4"])
        packed = typeurl.pack(CreateOptions(no_new_keyring=True, io_uid=1))
        await shim.call("c", "create", options=packed)
        await shim.call("c", "start")
        assert 4 == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete")


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs here")
@runtimes
@in_loop
async def test_systemd_is_refused_where_it_does_not_run(
    tmp_path: Path, runtime: str
) -> None:
    """Whether the options ask for it or the spec; and nothing is made."""
    config = spec(["true"])
    config["linux"]["cgroupsPath"] = "system.slice:dunnage:c"
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("a")
        await shim.up("b", config=config)
        for id_, packed in (
            ("a", shim.options(systemd_cgroup=True)),
            ("a", toml(f'BinaryName = "{runtime}"\nSystemdCgroup = true')),
            ("b", shim.options()),
        ):
            with pytest.raises(FailedPrecondition, match="systemd: it does not run"):
                await shim.call(id_, "create", options=packed)
            assert not (shim.bundles / id_ / "options.json").exists()
        assert [] == cgroups_named("/system.slice:dunnage:c")


# -- of the shim itself


@pytest.fixture
def cgroup() -> Iterator[str]:
    """Give a cgroup of two hierarchies; who is in it at the end is ended."""
    path = f"/dunnage-test-{secrets.token_hex(4)}"
    tops = [top for top in cgroups_named("/") if top.name in {"freezer", "pids"}]
    groups = [Path(f"{top}{path}") for top in tops]
    for group in groups:
        group.mkdir()
    yield path
    for group in groups:
        while pids := (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pids[0]), 9)
        group.rmdir()


@pytest.mark.parametrize("dialect", ["runc", "toml", "params"])
@cold_too
@in_loop
async def test_the_shim_s_own_cgroup(
    tmp_path: Path, cgroup: str, environment: dict[str, str], dialect: str
) -> None:
    """The shim is in it before its first container, and so is no other."""
    async with Shim(tmp_path, environment=environment) as shim:
        shim.params = dialect == "params"
        told = shim.options(shim_cgroup=cgroup)
        if dialect == "toml":
            told = toml(f'ShimCgroup = "{cgroup}"')
        shim.options = lambda **_: told  # type: ignore[method-assign]
        shim.bundle("c", spec(["true"]))
        done = await asyncio.to_thread(shim.start_action, "c")
        assert (0, b"") == (done.returncode, done.stderr)
        (pid,) = pids_with(shim.namespace)
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        assert 2 == len([line for line in lines if line.endswith(f":{cgroup}")])
        (group, _) = [path / "cgroup.procs" for path in cgroups_named(cgroup)]
        assert [pid] == [int(line) for line in group.read_text().split()]


@cold_too
@in_loop
async def test_a_cgroup_that_is_not_there(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """The start says so, and there is neither a shim nor a socket."""
    async with Shim(tmp_path, environment=environment) as shim:
        told = shim.options(shim_cgroup="/dunnage/none")
        shim.options = lambda **_: told  # type: ignore[method-assign]
        bundle = shim.bundle("c", spec(["true"]))
        done = await asyncio.to_thread(shim.start_action, "c")
        assert (1, b"") == (done.returncode, done.stdout)
        said = b": join shim_cgroup: /dunnage/none: no such file or directory"
        assert done.stderr.endswith(said)
        assert [] == pids_with(shim.namespace)
        address = (bundle / "address").read_text().removeprefix("unix://")
        assert not os.path.lexists(address)


_SCHED_CORE = """
from dunnage.host.procs import share_no_core
try:
    share_no_core()
except OSError as error:
    print(error.strerror.partition(": ")[2].lower())
"""


@cold_too
@in_loop
async def test_core_scheduling(tmp_path: Path, environment: dict[str, str]) -> None:
    """The daemon's SCHED_CORE: the kernel does it, or the start says that it cannot."""
    script = [sys.executable, "-c", _SCHED_CORE]
    told = subprocess.run(script, capture_output=True, check=True).stdout.strip()
    async with Shim(tmp_path, environment=environment | {"SCHED_CORE": "1"}) as shim:
        shim.bundle("c", spec(["true"]))
        done = await asyncio.to_thread(shim.start_action, "c")
        if told:
            assert (1, b"") == (done.returncode, done.stdout)
            assert done.stderr.endswith(b": enable sched core support: " + told)
            assert [] == pids_with(shim.namespace)
        else:
            assert (0, b"") == (done.returncode, done.stderr)


# -- user namespaces


@runtimes
@in_loop
async def test_a_user_namespace(runtime: str) -> None:
    """A container whose root is nobody outside, with execs, and a root of its own."""
    mapping = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    config = spec(["sh", "-c", "cat /proc/self/uid_map; id -u; exec sleep 1000"])
    config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    config["linux"]["namespaces"].append({"type": "user"})
    with tempfile.TemporaryDirectory(prefix="dn-") as name:
        place = Path(name)
        place.chmod(0o711)  # its root has to get there
        async with Shim(place, runtime=runtime) as shim:
            await shim.up("c", config=config)
            async with fifo_reader(place / "out") as said:
                await shim.call("c", "create", stdout=str(place / "out"))
                await shim.call("c", "start")
                await shim.exec("c", "e", ["sh", "-c", "exit $(id -u)"])
                await shim.call("c", "start", exec_id="e")
                assert 0 == (await shim.call("c", "wait", exec_id="e")).exit_status
                pid = (await shim.call("c", "state")).pid
                assert 100_000 == Path(f"/proc/{pid}").stat().st_uid
                await shim.call("c", "kill", signal=9)
                await shim.call("c", "wait")
                await shim.call("c", "delete")
                assert [b"0", b"100000", b"65536", b"0"] == (await said).split()
