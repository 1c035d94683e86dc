"""``dunnage install`` and ``uninstall``, as commands, where no containers run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.driver import DUNNAGE, STOCK

from dunnage import __version__
from dunnage.cli.install import running
from dunnage.cli.install.programs import launcher

pytestmark = pytest.mark.slow

OURS = "containerd-shim-dunnage-v2"
THEIRS = "containerd-shim-runc-v2"
# No other processes than its own are to be seen.
ALONE = ("unshare", "--pid", "--fork", "--mount-proc")


def dunnage(*words: object, before: tuple[str, ...] = ALONE) -> tuple[int, str]:
    """Run a command where no daemon is seen; return its status and all it says."""
    done = subprocess.run(
        [*before, str(DUNNAGE), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """A directory with a stock shim."""
    path = tmp_path / "bin"
    path.mkdir()
    shutil.copy(STOCK, path / THEIRS)
    return path


def names(directory: Path) -> list[str]:
    """Return what is in a directory."""
    return sorted(os.listdir(directory))


def shown(directory: Path) -> list[tuple[str, int, int]]:
    """Return what tells a directory from what it was before."""
    all_ = [(name, os.lstat(directory / name)) for name in names(directory)]
    return [(name, status.st_ino, status.st_ctime_ns) for name, status in all_]


def test_install_and_uninstall(into: Path) -> None:
    """By name only: the stock shim stays; the lines for all three are printed."""
    status, said = dunnage("install", "--into", into)
    assert (0, [OURS, THEIRS]) == (status, names(into))
    assert launcher() == os.readlink(into / OURS)
    for part in ("config.toml", '"runtimeType": "io.con', "kind: RuntimeClass"):
        assert part in said
    status, said = dunnage("install", "--into", into, "--check")
    assert (0, True) == (status, f"{launcher()}, {__version__}" in said)
    assert "no containerd runs" in said
    assert 0 == dunnage("install", "--into", into)[0]
    assert 0 == dunnage("uninstall", "--into", into)[0]
    assert [THEIRS] == names(into)
    assert (0, "nothing is installed\n") == dunnage("uninstall", "--into", into)
    status, said = dunnage("install", "--into", into, "--check")
    assert (1, True) == (status, f"{OURS} is not installed" in said)


def test_as_stock(into: Path) -> None:
    """Both names are ours; then the stock shim is what it was, byte for byte."""
    kept = into / f"{THEIRS}.dunnage-kept"
    assert 1 == dunnage("install", "--into", into, "--as-stock", "--check")[0]
    status, said = dunnage("install", "--into", into, "--as-stock")
    assert (0, [OURS, THEIRS, kept.name]) == (status, names(into))
    assert f"kept as {kept}" in said
    for name in (OURS, THEIRS):
        shown = subprocess.check_output([into / name, "-v"], text=True)
        assert f"Version:  {__version__}" in shown
    assert STOCK.read_bytes() == kept.read_bytes()
    assert 0 == dunnage("install", "--into", into, "--as-stock", "--check")[0]
    assert 0 == dunnage("uninstall", "--into", into)[0]
    assert [THEIRS] == names(into)
    assert STOCK.read_bytes() == (into / THEIRS).read_bytes()


@pytest.mark.parametrize("kind", [["install", "--as-stock"], ["uninstall"]])
def test_a_dry_run_changes_nothing(into: Path, kind: list[str]) -> None:
    """It says what it would do."""
    if kind == ["uninstall"]:
        assert 0 == dunnage("install", "--as-stock", "--into", into)[0]
    before = shown(into)
    status, said = dunnage(*kind, "--into", into, "--dry-run")
    assert (0, 2) == (status, said.count("(dry run) "))
    assert before == shown(into)


def test_check_tells_what_is_wrong(into: Path) -> None:
    """An upgrade of the stock shim, a launcher that is gone, another's version."""
    assert 0 == dunnage("install", "--as-stock", "--into", into)[0]
    shutil.copy(STOCK, into / "new")
    os.rename(into / "new", into / THEIRS)
    status, said = dunnage("install", "--into", into, "--check")
    assert 1 == status
    assert f"PROBLEM: {into / THEIRS} is not ours any more" in said
    assert 0 == dunnage("install", "--as-stock", "--into", into)[0]
    assert 0 == dunnage("install", "--into", into, "--check")[0]

    other = into.parent / "other" / OURS
    other.parent.mkdir()
    os.unlink(into / OURS)
    os.symlink(other, into / OURS)
    status, said = dunnage("install", "--into", into, "--check")
    assert (1, True) == (status, f"leads to {other}, which is gone" in said)
    other.write_text('#!/bin/sh\necho "Version: 9.9"; echo "Python version: 3"\n')
    other.chmod(0o755)
    status, said = dunnage("install", "--into", into, "--check")
    assert (1, True) == (status, "is of version 9.9" in said)
    assert 0 == dunnage("install", "--into", into)[0]
    assert 0 == dunnage("install", "--into", into, "--check")[0]


def test_another_installations_link_is_not_taken_away(into: Path) -> None:
    """Uninstall removes what this installation has put there."""
    other = into.parent / OURS
    shutil.copy(launcher(), other)
    os.symlink(other, into / OURS)
    assert (0, "nothing is installed\n") == dunnage("uninstall", "--into", into)
    assert [OURS, THEIRS] == names(into)


def test_what_is_no_link_of_ours_is_not_replaced(into: Path) -> None:
    """Under our own name, a program of somebody's stays; by force it is kept."""
    (into / OURS).write_text("somebody's")
    status, said = dunnage("install", "--into", into, "--as-stock")
    assert (125, True) == (status, "no link of ours" in said)
    assert [OURS, THEIRS] == names(into)
    assert not (into / THEIRS).is_symlink()
    assert 0 == dunnage("install", "--into", into, "--force")[0]
    assert 0 == dunnage("uninstall", "--into", into)[0]
    assert "somebody's" == (into / OURS).read_text()


def test_a_read_only_directory(into: Path) -> None:
    """One line says so, and what can be done; nothing has changed."""
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", script, str(into))
    status, said = dunnage("install", "--into", into, before=before)
    assert (125, 1) == (status, said.count("\n"))
    assert f"{into} is on a read-only file system; say --into DIR" in said
    assert f"ctr --runtime {launcher()}" in said
    assert 0 == dunnage("install", "--into", into, "--as-stock")[0]
    status, said = dunnage("uninstall", "--into", into, before=before)
    assert (125, True) == (status, "is on a read-only file system" in said)
    assert 3 == len(names(into))


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """It is not made: nothing would look there."""
    status, said = dunnage("install", "--into", tmp_path / "no")
    assert (125, True) == (status, f"there is no directory {tmp_path}/no" in said)
    assert [] == names(tmp_path)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[running.Daemon]:
    """Something called containerd, with mounts of its own: it has no launcher."""
    program = tmp_path / "daemon/containerd"
    program.parent.mkdir()
    sleep = shutil.which("sleep")
    assert sleep
    shutil.copy(sleep, program)
    hidden = os.path.dirname(launcher())
    script = f"mount -t tmpfs none {hidden} && exec {program} 1000"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], env={"PATH": f"{tmp_path}/bin:/bin"}
    ) as process:
        try:
            while not (found := _by_pid(process.pid)):
                assert process.poll() is None
            yield found
        finally:
            process.send_signal(signal.SIGKILL)


def _by_pid(pid: int) -> running.Daemon | None:
    return next((found for found in running.daemons() if found.pid == pid), None)


def test_a_daemon_that_sees_something_else(into: Path, daemon: running.Daemon) -> None:
    """What it would execute is tried with its root and its mounts, in its order."""
    assert (str(into), "/bin", str(into.parent / "daemon")) == daemon.directories
    assert "/etc/containerd/config.toml" == daemon.config
    found = daemon.find(THEIRS)
    assert found == running.Found(str(into / THEIRS))
    assert 0 == dunnage("install", "--into", into)[0]
    assert daemon.find(OURS) is None  # the link leads to what it does not see


def test_a_daemon_that_ends(into: Path, daemon: running.Daemon) -> None:
    """Nothing is found there, and it is no error."""
    os.kill(daemon.pid, signal.SIGKILL)
    while daemon.is_there():
        pass
    assert daemon.find(THEIRS) is None
    assert b"" == daemon.read_config()


# -- dpkg, the real one, with a database of its own


class Dpkg:
    """One package, which brings a stock shim."""

    def __init__(self, directory: Path, program: Path) -> None:
        self._directory = directory
        self._program = program
        for name in ("info", "updates", "triggers"):
            (directory / "admin" / name).mkdir(parents=True)
        (directory / "admin/status").touch()

    def install(self, version: str) -> None:
        """Install a version; its shim is a script that says it."""
        tree = self._directory / f"tree-{version}"
        inside = tree / str(self._program).lstrip("/")
        inside.parent.mkdir(parents=True)
        inside.write_text(f"#!/bin/sh\necho Version: {version}\n")
        inside.chmod(0o755)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(
            f"Package: stock\nVersion: {version}\nArchitecture: all\n"
            "Maintainer: nobody <nobody@test.invalid>\nDescription: a shim\n"
        )
        archive = self._directory / f"{version}.deb"
        self._run("dpkg-deb", "--build", "--root-owner-group", tree, archive)
        self._run("dpkg", "--log=/dev/null", "--install", archive)

    def _run(self, *argv: str | Path) -> None:
        subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture
def dpkg(into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dpkg:
    """A dpkg that owns the stock shim in its first version."""
    monkeypatch.setenv("DPKG_ADMINDIR", str(tmp_path / "dpkg/admin"))
    (into / THEIRS).unlink()
    dpkg = Dpkg(tmp_path / "dpkg", into / THEIRS)
    dpkg.install("1")
    return dpkg


def said_by(program: Path) -> str:
    """Return the stock shim's version, or ours."""
    said = subprocess.check_output([program, "-v"], text=True)
    found = re.search(r"Version: +(\S+)", said)
    assert found
    return found[1]


def test_an_upgrade_by_dpkg_is_noticed(into: Path, dpkg: Dpkg) -> None:
    """It puts the stock shim back; installed again, that is what is kept."""
    status, said = dunnage("install", "--as-stock", "--into", into)
    assert (0, True) == (status, "belongs to the package stock" in said)
    dpkg.install("2")
    assert "2" == said_by(into / THEIRS)
    status, said = dunnage("install", "--into", into, "--check")
    assert (1, True) == (status, "is not ours any more" in said)
    assert 0 == dunnage("install", "--as-stock", "--into", into)[0]
    assert 0 == dunnage("uninstall", "--into", into)[0]
    assert "2" == said_by(into / THEIRS)


def test_the_diversion_that_is_proposed(into: Path, dpkg: Dpkg) -> None:
    """With it an upgrade changes what is kept, and the place stays ours."""
    _, said = dunnage("install", "--as-stock", "--into", into)
    (command,) = re.findall(r"^ +(dpkg-divert .*)$", said, re.MULTILINE)
    subprocess.run(command.split(), check=True, capture_output=True)
    dpkg.install("2")
    assert __version__ == said_by(into / THEIRS)
    status, said = dunnage("install", "--into", into, "--check")
    assert (0, False) == (status, "belongs to" in said)
    _, said = dunnage("uninstall", "--into", into)
    assert "2" == said_by(into / THEIRS)
    (command,) = re.findall(r": (dpkg-divert .*)$", said, re.MULTILINE)
    subprocess.run(command.split(), check=True, capture_output=True)
    dpkg.install("3")
    assert ("3", [THEIRS]) == (said_by(into / THEIRS), names(into))
