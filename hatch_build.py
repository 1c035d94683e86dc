"""Builds what is C: the launcher, which containerd executes, and a library.

With a C compiler it is the program in ``launcher/``, and the wheel is for one machine;
without one it is the script ``launcher/thin``, and the wheel is for all.
The library (``native/``) is not missed where it is not built.

In the environment of a build:

- ``DUNNAGE_LAUNCHER``: ``c`` fails without a compiler (and brings one, the package
  ``ziglang``, where the build has a network); ``python`` asks for the script.
- ``DUNNAGE_LAUNCHER_TARGET``: a machine (``x86_64``, ``aarch64``) to build for with
  ziglang, independent of any libc.
- ``CC``: the compiler.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROGRAM: Final = "containerd-shim-dunnage-v2"
ZIGLANG: Final = "ziglang==0.17.1"
# The program needs nothing of a libc, and the library only of one that is newer.
OLDEST_GLIBC: Final = "gnu.2.17"
PORTABLE_TAG: Final = "py3-none-manylinux_2_17_{0}.musllinux_1_1_{0}"

STANDARD: Final = ("-std=c11", "-D_GNU_SOURCE")
FLAGS: Final = (
    *STANDARD,
    "-O2",
    "-s",
    "-D_FORTIFY_SOURCE=2",
    "-fstack-protector-strong",
    "-Wl,-z,relro,-z,now,-z,noexecstack",
)
MUSL_GCC: Final = "musl-gcc"
"""Tried first: in a virtual machine glibc takes half a millisecond before main, as it
asks the processor for all that it can do, and each question goes to the host."""
# Tried in turn: a static program has nothing to load, but its libc is not on every
# machine.
LINKS: Final = (("-static",), ("-fPIE", "-pie"))

LIBRARY: Final = "src/dunnage/host/libprocs.so"
LIBRARY_FLAGS: Final = (
    "-std=gnu11",
    "-O2",
    "-s",
    "-fvisibility=hidden",
    "-fPIC",
    "-shared",
)


class Hook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the launcher to the scripts of a wheel, and the library to the package."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what the build has to bring: a compiler, where there must be one."""
        wants_zig = bool(_target()) or (_forced() == "c" and not _compilers())
        return [ZIGLANG] if wants_zig and not _zig("musl") else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the launcher before the wheel is put together."""
        self._folder = Path(tempfile.mkdtemp(prefix="dunnage-build-"))
        launcher = self._folder / PROGRAM
        tag = self._compile(launcher)
        if tag:
            build_data["pure_python"] = False
            build_data["tag"] = tag
            self._add_library(build_data, editable=version == "editable")
        else:
            self._write_script(launcher, editable=version == "editable")
        build_data["shared_scripts"][str(launcher)] = PROGRAM

    def finalize(self, version: str, build_data: dict[str, Any], path: str) -> None:  # noqa: ARG002
        """Remove what was made for the wheel."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _compile(self, launcher: Path) -> str:
        """Compile the C launcher; return the wheel's tag, empty if that was no use."""
        if _forced() == "python":
            return ""
        failures = []
        for compiler in _compilers():
            for link in LINKS:
                done = subprocess.run(
                    [*compiler, *self._arguments(launcher), *link],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode == 0:
                    launcher.chmod(0o755)
                    return _tag()
                failures.append(f"{shlex.join(compiler)}: {done.stderr.strip()}")
        if _forced() == "c" or _target():
            raise RuntimeError("\n".join(["no C launcher", *failures]))
        # A compiler without a libc's headers is as good as none.
        self.app.display_warning("without a C compiler: the launcher is in Python")
        return ""

    def _add_library(self, build_data: dict[str, Any], *, editable: bool) -> None:
        """Compile the library; an editable installation finds it in our sources."""
        path = Path(self.root, LIBRARY) if editable else self._folder / "library"
        path.unlink(missing_ok=True)  # never written to while it is mapped
        sources = map(str, sorted(Path(self.root, "native").glob("*.c")))
        command = [*_library_compiler(), *LIBRARY_FLAGS, "-o", str(path), *sources]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.app.display_warning(f"{LIBRARY} is not built: {done.stderr.strip()}")
        elif not editable:
            build_data["force_include"][str(path)] = LIBRARY.removeprefix("src/")

    def _arguments(self, launcher: Path) -> list[str]:
        sources = sorted(Path(self.root, "launcher").glob("*.c"))
        version = f'-DDUNNAGE_VERSION="{self.metadata.version}"'
        return [*FLAGS, version, *map(str, sources), "-o", str(launcher)]

    def _write_script(self, launcher: Path, *, editable: bool) -> None:
        text = Path(self.root, "launcher", "thin").read_text()
        if editable:
            source = str(Path(self.root, "src"))
            text = text.replace('SOURCE = ""', f"SOURCE = {source!r}")
        launcher.write_text(text)
        launcher.chmod(0o755)


def _forced() -> str:
    forced = os.environ.get("DUNNAGE_LAUNCHER", "")
    if forced not in {"", "c", "python"}:
        raise RuntimeError(f"DUNNAGE_LAUNCHER is {forced!r}: not c, nor python")
    return forced


def _target() -> str:
    return os.environ.get("DUNNAGE_LAUNCHER_TARGET", "")


def _zig(libc: str) -> list[str]:
    """Return ziglang's compiler for a libc, empty if it is not installed."""
    if not importlib.util.find_spec("ziglang"):
        return []
    machine = _target() or platform.machine()
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-{libc}"]


def _compilers() -> list[list[str]]:
    """Return the compilers that are here, the one to be tried first in front."""
    # Of the two libcs that ziglang has, only this one is linked statically.
    zig = _zig("musl")
    if _target():
        return [zig] if zig else []
    named = shlex.split(os.environ.get("CC", ""))
    names = (MUSL_GCC, "cc", "gcc", "clang")
    found = [[name] for name in names if shutil.which(name)]
    return [words for words in (named, *found, zig) if words]


def _library_compiler() -> list[str]:
    """Return what makes a library that the interpreter's libc can load."""
    found = _compilers()
    first = next((words for words in found if words != [MUSL_GCC]), found[0])
    # musl takes the names of glibc's libraries for its own.
    return [*_zig(OLDEST_GLIBC), "-lpthread"] if first == _zig("musl") else first


def _tag() -> str:
    target = _target()
    return (
        PORTABLE_TAG.format(target)
        if target
        else f"py3-none-linux_{platform.machine()}"
    )
