"""Outputs that are appended to files, through the shim binary."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import Shim, fill, in_loop, spec, tiny_disk, until
from .test_terminal import terminal_spec

pytestmark = pytest.mark.slow

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
SAYS = ["sh", "-c", "echo out; echo err >&2"]


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a directory that anybody can pass through; pytest's are its user's."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


async def led(shim: Shim, *, terminal: bool = False, **streams: Any) -> None:
    """Lead a life that says something, to its end."""
    await shim.up("c", config=terminal_spec(SAYS) if terminal else spec(SAYS))
    await shim.call("c", "create", terminal=terminal, **streams)
    await shim.call("c", "start")
    assert 0 == (await shim.call("c", "wait")).exit_status
    await shim.call("c", "delete")
    await shim.call("c", "shutdown")
    assert [] == await shim.gone("c")


@RUNTIMES
@in_loop
async def test_each_to_its_own(tmp_path: Path, runtime: str) -> None:
    """By the time that Delete answers all is in the files."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        out, err = tmp_path / "new/out", tmp_path / "err"
        err.write_text("before\n")
        await led(shim, stdout=f"file://{out}", stderr=f"file://{err}")
        assert ("out\n", "before\nerr\n") == (out.read_text(), err.read_text())


@RUNTIMES
@in_loop
async def test_one_of_them(tmp_path: Path, runtime: str) -> None:
    """The other is /dev/null."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await led(shim, stdout=f"file://{tmp_path}/out")
        assert "out\n" == (tmp_path / "out").read_text()


@RUNTIMES
@in_loop
async def test_of_a_terminal(tmp_path: Path, runtime: str) -> None:
    """What a terminal says is in the file of stdout."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await led(shim, terminal=True, stdout=f"file://{tmp_path}/out")
        assert b"out\r\nerr\r\n" == (tmp_path / "out").read_bytes()


@in_loop
async def test_of_an_exec(tmp_path: Path) -> None:
    """As of init; a process more shares the file with it."""
    async with Shim(tmp_path) as shim:
        uri = f"file://{tmp_path}/out"
        await shim.up("c", ["sh", "-c", "echo init; exec sleep 1000"])
        await shim.call("c", "create", stdout=uri, stderr=uri)
        await shim.call("c", "start")
        await until((tmp_path / "out").read_text)
        await shim.exec("c", "e", SAYS, stdout=uri, stderr=uri)
        await shim.call("c", "start", exec_id="e")
        await shim.call("c", "wait", exec_id="e")
        await shim.call("c", "delete", exec_id="e")
        assert "init\nout\nerr\n" == (tmp_path / "out").read_text()


@in_loop
async def test_a_full_disk(tmp_path: Path) -> None:
    """It stops nobody, and what is said when there is room again is there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    async with Shim(tmp_path) as shim:
        tiny_disk(disk)
        script = "echo first; mkfifo /tmp/go; read x </tmp/go; seq 1 100000;"
        script += "echo >/tmp/said; read x </tmp/go; echo last"
        await shim.up("c", ["sh", "-c", script])
        await shim.call("c", "create", stdout=f"file://{disk}/log")
        await shim.call("c", "start")
        go = shim.rootfs / "tmp/go"
        await until(lambda: (disk / "log").read_text() == "first\n" and go.exists())
        ballast = fill(disk)
        await asyncio.to_thread(go.write_text, "\n")
        await until((shim.rootfs / "tmp/said").exists)
        await until(lambda: "output is dropped" in shim.log("c"))
        ballast.unlink()
        await asyncio.to_thread(go.write_text, "\n")
        assert 0 == (await shim.call("c", "wait")).exit_status
        await shim.call("c", "delete")
        assert (disk / "log").read_text().endswith("last\n")
        assert "bytes of its output were never read" in shim.log("c")


@RUNTIMES
@pytest.mark.parametrize("given", [{}, {"io_uid": 1234, "io_gid": 1235}])
@in_loop
async def test_in_a_user_namespace(
    open_path: Path, runtime: str, given: dict[str, int]
) -> None:
    """Its root owns the streams, whether the options say so or only the spec does."""
    async with Shim(open_path, runtime=runtime) as shim:
        config = spec(["sh", "-c", "stat -Lc %u:%g /dev/stdout; echo on >/dev/stdout"])
        linux = config["linux"]
        linux["namespaces"].append({"type": "user"})
        for name, host in (("uidMappings", 1234), ("gidMappings", 1235)):
            linux[name] = [{"containerID": 0, "hostID": host, "size": 1}]
        await shim.up("c", config=config)
        uri = f"file://{open_path}/out"
        options = shim.options(**given)
        await shim.call("c", "create", stdout=uri, stderr=uri, options=options)
        await shim.call("c", "start")
        await shim.call("c", "wait")
        await shim.call("c", "delete")
        assert "0:0\non\n" == (open_path / "out").read_text()
        await shim.call("c", "shutdown")
        assert [] == await shim.gone("c")
