"""Builds what is C, where there is a compiler; without one the package is pure Python.

``CC`` names the compiler and its arguments; ``cc`` if it is not set.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden")
_BUILT = {
    "src/dunnage/host/libprocs.so": ("-fPIC", "-shared", "native/procs.c"),
}
"""What is built, from the root of the source, and the compiler's arguments for it."""


class Hook(BuildHookInterface[Any]):
    """Compiles, and has the wheel named for the machine that it is for."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  # hatchling's
        """Build; an editable install finds the results where they are built."""
        compiler = shlex.split(os.environ.get("CC", "cc"))
        for target, arguments in _BUILT.items():
            path = Path(self.root, target)
            command = [*compiler, *_FLAGS, "-o", str(path), *arguments]
            path.unlink(missing_ok=True)  # never written to while it is mapped
            try:
                subprocess.run(command, cwd=self.root, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                self.app.display_warning(f"{target} is not built: {error}")
                continue
            build_data["artifacts"].append(target)
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"
