"""The shim's programs, tried: is it ours, of which version, does it run.

Owns: which launcher is this installation's; what a program says of itself.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import subprocess
import sys
import sysconfig
from typing import Final

from dunnage.bootstrap import warm
from dunnage.errors import FailedPrecondition, NotFound

OURS: Final = "containerd-shim-dunnage-v2"
STOCK: Final = "containerd-shim-runc-v2"

# What systemd gives to a service that says nothing of it, and a shell to root.
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CALL_LIMIT_S: Final = 30.0


def launcher() -> str:
    """Return the launcher of the installation that we are.

    Raises:
        NotFound: there is none.
    """
    beside = (os.path.dirname(sys.executable), sysconfig.get_path("scripts"))
    for directory in beside:
        path = os.path.join(directory, OURS)
        if os.access(path, os.X_OK):
            return path
    raise NotFound(
        f"no {OURS} in {' nor in '.join(dict.fromkeys(beside))}: "
        "dunnage runs from sources that were never installed (pip install does it)"
    )


@functools.cache
def version(program: str, root: str = "/") -> str:
    """Try a program, and return which version of ours it is; empty: another's.

    It is tried once: a command of ours is short.

    It does what a ``start`` needs, without the fork server: an interpreter is found,
    the package in it, and what that depends on.
    A copy of the launcher fails here: it finds its interpreter by where it stands.

    Args:
        program: its path.
        root: the directory that whoever will execute it has for its root.

    Raises:
        FailedPrecondition: it does not run.
        OSError: it is not there, or nobody may execute it.
    """
    said = _call(program, "-v", root)
    if "Python version:" not in said:
        return ""
    _call(program, "-info", root)
    found = re.search(r"^\s*Version:\s*(\S+)$", said, re.MULTILINE)
    return found[1] if found else ""


def _call(program: str, flag: str, root: str) -> str:
    def enter() -> None:
        os.chroot(root)
        os.chdir("/")

    try:
        done = subprocess.run(
            [program, flag],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            env={"PATH": DEFAULT_PATH, warm.DIRECTORY_VARIABLE: warm.NEVER},
            timeout=_CALL_LIMIT_S,
            check=False,
            preexec_fn=enter if root != "/" else None,
        )
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(
            f"{program} is silent for {error.timeout:.0f} s"
        ) from None
    except subprocess.SubprocessError as error:
        # Whose root it was has ended.
        raise FileNotFoundError(errno.ENOENT, "no such root", root) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise FailedPrecondition(f"{program} does not run: {said}")
    return done.stdout
