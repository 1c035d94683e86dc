"""Our shim with some of its constants altered: the real process, in less time."""

from __future__ import annotations

import sys
from pathlib import Path


def altered(directory: Path, **constants: float) -> Path:
    """Make a shim binary whose ``shim.daemon`` has these constants."""
    sets = "".join(f"daemon.{name} = {value}\n" for name, value in constants.items())
    binary = directory / "containerd-shim-dunnage-v2"
    binary.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from dunnage.shim import daemon, main\n"
        f"{sets}"
        "sys.exit(main.main())\n"
    )
    binary.chmod(0o755)
    return binary
