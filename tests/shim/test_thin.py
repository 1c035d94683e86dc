"""Tests of `dunnage.shim.thin`: the launcher where nobody could compile one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.machine import forkservers
from tests.shim.harness import ROOT, Shim, in_loop, proc_status, spec

from dunnage.bootstrap import warm

NAME = "containerd-shim-dunnage-v2"


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """Install it as the build does without a compiler, beside an interpreter."""
    folder = tmp_path / "bin"
    folder.mkdir()
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = (ROOT / "launcher/thin").read_text()
    launcher = folder / NAME
    launcher.write_text(text.replace('SOURCE = ""', f"SOURCE = {str(ROOT / 'src')!r}"))
    launcher.chmod(0o755)
    return launcher


def environment(directory: Path) -> dict[str, str]:
    """Return what has a shim started by a server of this test."""
    return {warm.DIRECTORY_VARIABLE: str(directory)}


@in_loop
async def test_a_whole_life(tmp_path: Path, launcher: Path, directory: Path) -> None:
    """It makes a server, has it fork a shim, and has the dead buried."""
    mine = environment(directory)
    async with Shim(tmp_path, binary=launcher, environment=mine) as shim:
        await shim.up("a", ["sh", "-c", "exit 3"])
        await shim.call("a", "create")
        await shim.call("a", "start")
        assert 3 == (await shim.call("a", "wait")).exit_status
        pid = await shim.kill_shim("a")
        assert pid
        done = shim.delete_action("a")
        assert (0, b"") == (done.returncode, done.stderr)
        assert [] == await shim.gone("a")
        assert forkservers(directory)


@pytest.mark.parametrize("reason", ["off", "not ours alone"])
@in_loop
async def test_without_a_server(
    tmp_path: Path, launcher: Path, directory: Path, reason: str
) -> None:
    """It does the work itself; what it read of stdin is not lost."""
    mine = {warm.DIRECTORY_VARIABLE: "off"}
    if reason != "off":
        directory.mkdir()
        directory.chmod(0o777)
        mine = environment(directory)
    async with Shim(tmp_path, binary=launcher, params=True, environment=mine) as shim:
        await shim.up("a")
        pid = (await shim.call("a", "connect")).shim_pid
        assert "containerd-shim" == proc_status(pid)["Name"]
        assert [] == forkservers(directory)


@in_loop
async def test_errors_are_passed_on(
    tmp_path: Path, launcher: Path, directory: Path
) -> None:
    """Status, stdout and stderr are what the server's fork says."""
    mine = environment(directory)
    async with Shim(tmp_path, binary=launcher, environment=mine) as shim:
        bundle = shim.bundle("a", spec(["true"]))
        (bundle / "config.json").unlink()
        done = shim.start_action("a")
        said = f"{NAME}: open config.json: no such file or directory"
        assert (1, b"", said) == (done.returncode, done.stdout, done.stderr.decode())


@pytest.mark.parametrize("words", [["-v"], ["-nonsense"], ["-h"], ["delete"]])
def test_it_says_what_the_program_says(launcher: Path, words: list[str]) -> None:
    """As `dunnage.shim.main` in its place."""
    told = {**os.environ, warm.DIRECTORY_VARIABLE: "off", warm.ARGV0_VARIABLE: NAME}
    program = [sys.executable, "-I", "-m", "dunnage.shim.main"]
    ours, expected = (
        subprocess.run(
            [*argv, *words],
            env=told,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        for argv in ([launcher], program)
    )
    assert expected.returncode == ours.returncode
    assert expected.stdout == ours.stdout
    assert expected.stderr == ours.stderr


def test_it_imports_little(launcher: Path) -> None:
    """cold-start: neither asyncio nor protobuf, nor what takes as long."""
    script = (
        "import sys; sys.argv = ['x', '-v']; import dunnage.shim.thin;"
        "print(*sorted(sys.modules))"
    )
    code = f"import sys; sys.path.append({str(ROOT / 'src')!r}); {script}"
    assert launcher.exists()
    argv = [sys.executable, "-I", "-S", "-c", code]
    imported = subprocess.run(argv, capture_output=True, check=True).stdout.split()
    unwanted = {b"asyncio", b"google", b"socket", b"json", b"typing", b"contextlib"}
    assert not unwanted & set(imported)
