"""Compiles the launcher, in the variants that tests need."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parents[2] / "launcher"
ODD: Final = Path(__file__).parent / "odd.c"
VERSION: Final = "1.2.3"
STRICT: Final = (
    "-std=c11",
    "-D_GNU_SOURCE",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
)
# No test waits for these: they only end one that would hang.
PATIENT: Final = ("-DREADY_LIMIT_MS=20000", "-DSTART_LIMIT_MS=20000")
HASTY: Final = ("-DREADY_LIMIT_MS=200", "-DSTART_LIMIT_MS=200", "-DEND_LIMIT_MS=100")
SANITIZED: Final = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def compiler() -> list[str]:
    """Return the C compiler, which `script/test` sees to it that there is."""
    if named := os.environ.get("CC"):
        return shlex.split(named)
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    assert importlib.util.find_spec("ziglang"), "there is no C compiler"
    return [sys.executable, "-m", "ziglang", "cc"]


def build(program: Path, *options: str, sources: Sequence[Path] = ()) -> Path:
    """Compile the launcher (or other ``sources``); a warning is an error."""
    given = sources or sorted(SOURCES.glob("*.c"))
    version = f'-DDUNNAGE_VERSION="{VERSION}"'
    argv = [*compiler(), *STRICT, version, "-O1", *options, "-o", str(program)]
    done = subprocess.run(
        [*argv, *map(str, given)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return program


def can_sanitize(directory: Path) -> bool:
    """Whether the compiler has the sanitizers' libraries."""
    source = directory / "nothing.c"
    source.write_text("int main(void) { return 0; }\n")
    argv = [*compiler(), *SANITIZED, "-o", str(directory / "nothing"), str(source)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
