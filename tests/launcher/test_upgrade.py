"""Two versions of the package, really installed one after the other, or removed.

Invariant defended here: imports-nothing-later.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.machine import end_forkservers, forkservers
from tests.shim.harness import ROOT, Shim, in_loop, proc_status

from dunnage.bootstrap import warm

pytestmark = pytest.mark.slow

NAME = "containerd-shim-dunnage-v2"
OLD, NEW = "0.1.0", "0.2.0"
SOURCES = ("src", "launcher", "native", "hatch_build.py", "pyproject.toml")


class Site:
    """A virtual environment that has our package in one version, or none."""

    def __init__(self, directory: Path, kind: str) -> None:
        self._directory = directory
        self._kind = kind
        self.bin = directory / "venv/bin"
        self._site = directory / f"venv/lib/python3.{sys.version_info.minor}"
        venv = ["-m", "venv", "--without-pip", str(directory / "venv")]
        subprocess.run([sys.executable, *venv], check=True)
        # The dependency is not what changes: it is lent.
        lent = Path(sys.prefix) / f"lib/python3.{sys.version_info.minor}"
        (self.package.parent / "google").symlink_to(lent / "site-packages/google")

    @property
    def package(self) -> Path:
        """Return the folder of the package."""
        return self._site / "site-packages/dunnage"

    def install(self, version: str) -> None:
        """Build and install a version, in the place of what is there."""
        tree = self._directory / f"tree-{version}"
        tree.mkdir()
        for name in (*SOURCES, "README.md", "LICENSE"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, tree / name)
        for name in ("pyproject.toml", "src/dunnage/__init__.py"):
            text = (tree / name).read_text()
            assert f'"{OLD}"' in text
            (tree / name).write_text(text.replace(f'"{OLD}"', f'"{version}"'))
        self._pip("wheel", "--wheel-dir", tree, tree)
        (wheel,) = tree.glob("*.whl")
        assert (self._kind == "python") == wheel.name.endswith("-any.whl")
        target = ["--python", str(self.bin / "python"), "install"]
        self._pip(*target, "--force-reinstall", wheel)

    def remove(self) -> None:
        """Remove the package, and its launcher with it."""
        self._pip("--python", str(self.bin / "python"), "uninstall", "-y", "dunnage")
        shutil.rmtree(self.package, ignore_errors=True)

    def _pip(self, *words: str | Path) -> None:
        offline = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if {"wheel", "install"} & set(words):
            offline["PIP_NO_DEPS"] = "1"
        if "wheel" in words:
            words = (*words, "--no-build-isolation")
        told = {**os.environ, **offline, "DUNNAGE_LAUNCHER": self._kind}
        argv = [sys.executable, "-m", "pip", "--quiet", *map(str, words)]
        done = subprocess.run(argv, env=told, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(params=["c", "python"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """Install the old version, with either launcher."""
    site = Site(tmp_path, request.param)
    site.install(OLD)
    return site


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Return where this test's servers are; they end with it."""
    path = tmp_path / "f"
    yield path
    end_forkservers(path)


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(proc_status(pid)["PPid"])


async def lives_on(shim: Shim, id_: str) -> None:
    """Have a shim do most of what it can do."""
    await shim.exec(id_, "e", ["sh", "-c", "exit 4"])
    await shim.call(id_, "start", exec_id="e")
    assert 4 == (await shim.call(id_, "wait", exec_id="e")).exit_status
    await shim.call(id_, "delete", exec_id="e")
    await shim.call(id_, "pause")
    await shim.call(id_, "resume")
    await shim.call(id_, "pids")
    await shim.call(id_, "kill", signal=9)
    assert 137 == (await shim.call(id_, "wait")).exit_status
    await shim.call(id_, "delete")
    await shim.call(id_, "shutdown")


@in_loop
async def test_an_upgrade_under_a_running_shim(
    tmp_path: Path, site: Site, directory: Path
) -> None:
    """The old shims live on, the new launcher buries them, new ones are its own."""
    mine = {warm.DIRECTORY_VARIABLE: str(directory)}
    async with Shim(tmp_path, binary=site.bin / NAME, environment=mine) as shim:
        for name in ("lives", "dies"):
            await shim.up(name, ["sleep", "1000"])
            await shim.call(name, "create")
            await shim.call(name, "start")
        old = parent((await shim.call("lives", "connect")).shim_pid)
        site.install(NEW)
        assert NEW in subprocess.check_output([site.bin / NAME, "-v"]).decode()
        await shim.up("new", ["sleep", "1000"])
        await shim.call("new", "create")
        await shim.call("new", "start")
        new = parent((await shim.call("new", "connect")).shim_pid)
        assert old != new
        assert {old, new} <= set(forkservers(directory))
        await shim.kill_shim("dies")
        done = shim.delete_action("dies")
        assert (0, b"") == (done.returncode, done.stderr)
        for name in ("lives", "new"):
            await lives_on(shim, name)
        for name in ("lives", "new", "dies"):
            assert [] == await shim.gone(name)


@in_loop
async def test_a_removal_under_a_running_shim(
    tmp_path: Path, site: Site, directory: Path
) -> None:
    """Nothing of the package is there any more, and its shims do not mind."""
    mine = {warm.DIRECTORY_VARIABLE: str(directory)}
    async with Shim(tmp_path, binary=site.bin / NAME, environment=mine) as shim:
        await shim.up("a", ["sleep", "1000"])
        await shim.call("a", "create")
        await shim.call("a", "start")
        kept = shutil.copy(site.bin / NAME, tmp_path / "kept")
        site.remove()
        assert not site.package.exists()
        assert not (site.bin / NAME).exists()
        try:
            await lives_on(shim, "a")
            assert [] == await shim.gone("a")
        finally:
            # For the harness, which has the last word by `delete`.
            shutil.copy(kept, site.bin / NAME)
            site.install(NEW)
