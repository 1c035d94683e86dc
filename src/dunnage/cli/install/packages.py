"""What the package manager believes of a path: dpkg, which has a word for our case."""

from __future__ import annotations

import shutil
import subprocess


def owner(path: str) -> str:
    """Return the Debian package that a path belongs to; empty if none."""
    lines = _ask("dpkg-query", "--search", path).splitlines()
    # Before it, of a path that is diverted, from where to where.
    return lines[-1].rpartition(": ")[0] if lines else ""


def goes_to(path: str) -> str:
    """Return where dpkg puts what a package brings for a path."""
    return _ask("dpkg-divert", "--truename", path) or path


def divert(path: str, kept: str) -> str:
    """Return the command that has upgrades go to the kept file."""
    return f"dpkg-divert --local --no-rename --divert {kept} --add {path}"


def undivert(path: str) -> str:
    """Return the command that takes this back."""
    return f"dpkg-divert --local --no-rename --remove {path}"


def _ask(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
