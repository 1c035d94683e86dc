"""Programs are tried: what runs, and what cannot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.cli.driver import STOCK

from dunnage import __version__
from dunnage.cli.install import programs
from dunnage.errors import FailedPrecondition, NotFound

pytestmark = pytest.mark.slow


def test_our_own() -> None:
    """It runs, and is of our version; through a link as well."""
    assert __version__ == programs.version(programs.launcher())


def test_a_link_runs_where_a_copy_does_not(tmp_path: Path) -> None:
    """A copy has no interpreter beside it that knows the package."""
    link, copy = tmp_path / "link", tmp_path / "copy"
    link.symlink_to(programs.launcher())
    shutil.copy(programs.launcher(), copy)
    assert __version__ == programs.version(str(link))
    with pytest.raises(FailedPrecondition, match=rf"{copy} does not run: .*dunnage"):
        programs.version(str(copy))


def test_another_shim() -> None:
    """The stock shim runs, and is none of ours."""
    assert "" == programs.version(str(STOCK))


def test_a_host_without_python(tmp_path: Path) -> None:
    """Where a daemon's root has the launcher and no interpreter, it is said."""
    launcher = programs.launcher()
    inside = tmp_path / launcher.lstrip("/")
    inside.parent.mkdir(parents=True)
    shutil.copy(launcher, inside)
    with pytest.raises(FailedPrecondition, match=r"python3: No such file or directory"):
        programs.version(launcher, str(tmp_path))


def test_what_is_not_there(tmp_path: Path) -> None:
    """It is the kernel's error."""
    with pytest.raises(FileNotFoundError):
        programs.version(str(tmp_path / "nothing"))
    (tmp_path / "plain").write_text("")
    with pytest.raises(PermissionError):
        programs.version(str(tmp_path / "plain"))


def test_a_package_that_misses_something(tmp_path: Path) -> None:
    """That a launcher says its version is not enough: what it needs must be there."""
    script = tmp_path / "shim"
    script.write_text(
        '#!/bin/sh\n[ "$1" = -v ] && echo "Version: 1" && echo "Python version: 3" '
        "&& exit\necho 'no module named google' >&2; exit 1\n"
    )
    script.chmod(0o755)
    with pytest.raises(FailedPrecondition, match="no module named google"):
        programs.version(str(script))


def test_sources_that_were_never_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no launcher; what would bring one is named."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda _: os.fspath(tmp_path))
    with pytest.raises(NotFound, match="pip install"):
        programs.launcher()
