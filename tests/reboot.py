"""A reboot, as far as files can tell: what a disk keeps, made to look older than it.

The machine is not booted, so time and the boot's id are changed in the files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.machine import cgroups_named

ANOTHER_BOOT = "11111111-2222-4333-8444-555555555555"
NOTES = {"runc": "state.json", "crun": "status"}


@contextlib.contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any of it, and ends with the block."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def started(pid: int) -> int:
    """Return the tick in which a process was started."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(") ")[2].split()[19])


def end_cgroup(path: str) -> None:
    """Kill what is in a cgroup and remove it: nothing of it survives a boot."""
    for group in cgroups_named(path):
        with contextlib.suppress(OSError):
            pids = (group / "cgroup.procs").read_text().split()
            for pid in map(int, pids):
                fd = os.pidfd_open(pid)
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.close(fd)
        while group.exists():
            with contextlib.suppress(OSError):
                group.rmdir()


def change(file: Path, **changes: Any) -> None:
    """Change values in a file of JSON."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def give_pid(state: Path, runtime: str, pid: int) -> None:
    """Have the notes of a runtime name a process as a container's init."""
    names = {
        "runc": ("init_process_pid", "init_process_start"),
        "crun": ("pid", "process-start-time"),
    }[runtime]
    values = dict(zip(names, (pid, started(pid)), strict=True))
    change(state / NOTES[runtime], **values)


def age(top: Path) -> None:
    """Have a directory and all in it be of a time before the boot."""
    for directory, _, files in os.walk(top):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            os.utime(path, ns=(1, 1), follow_symlinks=False)


def in_bundle(bundle: Path, pid: int) -> None:
    """Have a bundle's notes be another boot's, with a pid that is somebody's now."""
    traces = bundle / "dunnage-traces.json"
    shim = {"pid": pid, "started": started(pid), "boot_id": ANOTHER_BOOT}
    change(traces, shim=shim)
    (bundle / "init.pid").write_text(str(pid))
    note = bundle / "dunnage-shim.json"
    if note.exists():
        change(note, **shim)


def without_mounts(directory: Path) -> None:
    """Unmount all that is below a directory."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if line.split()[4].startswith(f"{directory}/"):
            subprocess.run(["umount", line.split()[4]], check=True)


def emptied(directory: Path) -> None:
    """Empty a directory as a tmpfs is by a boot."""
    for entry in directory.iterdir():
        shutil.rmtree(entry)
