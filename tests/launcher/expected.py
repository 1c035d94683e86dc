"""What a launcher must say, written down apart from every implementation of ours."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

LINES = (
    "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp"
    " Seccomp_filters Cpus_allowed Mems_allowed"
)
NAMESPACES = "cgroup ipc mnt net pid pid_for_children time time_for_children user uts"
VALUES = "oom_score_adj loginuid sessionid personality timerslack_ns"


def code(version: str, launcher: Path) -> str:
    """Return how an installation is told from another."""
    s = launcher.stat()
    return f"{version}:{s.st_dev}:{s.st_ino}:{s.st_mtime_ns}:{s.st_size}"


def key(code: str, environ: Sequence[bytes]) -> bytes:
    """Return the key of a child of ours, which inherits all that is in it."""
    proc = Path("/proc/self")
    status = (proc / "status").read_bytes()
    text = f"code={code}\n".encode()
    for name in LINES.split():
        for line in re.findall(rf"(?m)^{name}:.*\n", status.decode()):
            text += line.encode()
    text += b"attr=" + content(proc / "attr/current").rstrip(b"\0\n") + b"\n"
    root = (proc / "root").stat()
    text += f"root={root.st_dev}:{root.st_ino}\n".encode()
    for name in NAMESPACES.split():
        text += f"ns/{name}={link(proc / 'ns' / name)}\n".encode()
    text += content(proc / "cgroup")
    for name in VALUES.split():
        text += name.encode() + b"=" + content(proc / name).rstrip() + b"\n"
    text += content(proc / "limits")
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    # proc(5) counts from one, and the third is the first behind the name.
    text += "sched={}:{}:{}\n".format(*(fields[n - 3] for n in (19, 40, 41))).encode()
    for entry in sorted(environ):
        if re.match(rb"(?s)(LD_|MALLOC_|PYTHON).*=|GLIBC_TUNABLES=", entry):
            text += b"env:" + entry + b"\n"
    return text


def content(path: Path) -> bytes:
    """Return what a file says, nothing if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def link(path: Path) -> str:
    """Return what a symbolic link says, nothing if there is none."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def name(key: bytes) -> str:
    """Return the name of a key's server: FNV-1a."""
    value = 14695981039346656037
    for byte in key:
        value = (value ^ byte) * 1099511628211 % 2**64
    return f"{value:016x}"


def request(
    code: str, argv: Sequence[bytes], environ: Sequence[bytes], stdin: bytes, umask: int
) -> bytes:
    """Return the whole request."""
    entries = [entry for entry in environ if b"=" in entry]
    body = struct.pack("<I", umask) + text(code.encode())
    for words in (argv, entries):
        body += struct.pack("<I", len(words)) + b"".join(map(text, words))
    body += text(stdin)
    return b"DNG1" + struct.pack("<I", len(body)) + body


def answer(status: int, stdout: bytes = b"", stderr: bytes = b"") -> bytes:
    """Return what a server's child answers."""
    return b"A" + struct.pack("<I", status) + text(stdout) + text(stderr)


def text(data: bytes) -> bytes:
    """Return bytes with their length before them."""
    return struct.pack("<I", len(data)) + data
