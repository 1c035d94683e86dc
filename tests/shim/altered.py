"""Our shim, altered: the real process, in less time, or with a fault of its own."""

from __future__ import annotations

import sys
from pathlib import Path


def altered(directory: Path, fault: str = "", **constants: float) -> Path:
    """Make a shim binary whose ``shim.daemon`` has these constants.

    ``fault`` is code that is run first, also in a `delete`; it has `die`.
    """
    sets = "".join(f"daemon.{name} = {value}\n" for name, value in constants.items())
    binary = directory / "containerd-shim-dunnage-v2"
    binary.write_text(
        f"#!{sys.executable}\n"
        "import os, signal, sys\n"
        "from dunnage.shim import daemon, main\n"
        "def die():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{fault}\n"
        f"{sets}"
        "sys.exit(main.main())\n"
    )
    binary.chmod(0o755)
    return binary
