"""What runc or crun has noted of a container: whether its delete is needed.

Of a container without processes, ``runc delete`` and ``crun delete`` remove the cgroups
and the notes themselves, and nothing else, unless the notes speak of more: hooks that
run afterwards, groups in resctrl, units of systemd.
A call costs several milliseconds of a processor, so where it would do no more than two
kinds of unlink(2), there is none.

Sources, each as of 2026-08 and compared with what runc 1.1 and crun 1.8 write: runc
(``libcontainer/state_linux.go``: destroy; ``configs/config.go``), crun
(``src/libcrun/container.c``: container_delete_internal; ``status.c``).

Owns: reading these notes.

Invariant (unknown-is-theirs): where anything is noted that is not known here, or the
    program is another, or a script in its place, the runtime is called.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from dunnage.host import cgroups
from dunnage.host.procs.identity import Identity

from .options import Options

_Values: TypeAlias = Mapping[str, Any]

_ELF: Final = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class Notes:
    """All that there is of a container, if it has no processes."""

    state: str
    """The directory of the notes."""
    cgroups: tuple[str, ...] = ()
    init: Identity | None = None

    def remove(self) -> bool:
        """Remove the notes themselves, when all else is gone; whether they are."""
        shutil.rmtree(self.state, ignore_errors=True)
        return not os.path.lexists(self.state)


def read(state: str, options: Options) -> Notes | None:
    """Return what is noted; None where the runtime has to be asked.

    Args:
        state: the directory in which the runtime has its notes of the container; if it
            is not there, there is no container.
        options: those with which the container was created.
    """
    name = options.program
    parse = _FORMATS.get(os.path.basename(name))
    if parse is None or options.systemd_cgroup or not _is_program(name):
        return None
    if not os.path.lexists(state):
        return Notes(state)
    try:
        return parse(state)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    except RecursionError:
        return None


def look(state: str) -> Notes:
    """Return what is noted of processes, by whichever of the two runtimes.

    It does not say that the runtime is not needed: it may have noted more.
    Nothing that can be read (a crash has torn it, perhaps) is no process.

    Raises:
        LookupError, TypeError, AttributeError, RecursionError: another runtime's.
    """
    for look_at in (_runc_processes, _crun_processes):
        try:
            return look_at(state)
        except (OSError, ValueError):
            continue
    return Notes(state)


def _is_program(name: str) -> bool:
    """Whether it is no script, which may do whatever it likes."""
    path = shutil.which(name)
    if path is None:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(_ELF)) == _ELF
    except OSError:
        return False


# -- runc

_RUNC_STATE: Final = frozenset({
    "id", "init_process_pid", "init_process_start", "created", "config",
    "cgroup_paths", "namespace_paths", "external_descriptors",
})  # fmt: skip
_RUNC_CONFIG: Final = frozenset({
    "Hooks", "apparmor_profile", "capabilities", "cgroups", "devices", "domainname",
    "exec_cpu_affinity", "gid_mappings", "hostname", "io_priority", "labels",
    "mask_paths", "memory_policy", "mount_label", "mounts", "namespaces", "netDevices",
    "networks", "no_new_keyring", "no_new_privileges", "no_pivot_root",
    "oom_score_adj", "parent_death_signal", "personality", "process_label",
    "readonly_paths", "readonlyfs", "rlimits", "rootPropagation", "rootfs", "routes",
    "scheduler", "seccomp", "sysctl", "time_offsets", "uid_mappings", "umask",
    "version",
})  # fmt: skip


def _runc(state: str) -> Notes | None:
    noted = _load(f"{state}/state.json")
    config = noted["config"]
    if (
        _speaks_of_more(noted, _RUNC_STATE)
        or _speaks_of_more(config, _RUNC_CONFIG)
        or (config.get("Hooks") or {}).get("poststop")
        or config["cgroups"]["Systemd"]
    ):
        return None
    return _runc_processes(state, noted)


def _runc_processes(state: str, noted: _Values | None = None) -> Notes:
    noted = _load(f"{state}/state.json") if noted is None else noted
    paths = tuple(map(str, (noted.get("cgroup_paths") or {}).values()))
    return Notes(
        state, paths, _init(noted["init_process_pid"], noted["init_process_start"])
    )


# -- crun

_CRUN_STATUS: Final = frozenset({
    "pid", "process-start-time", "cgroup-path", "rootfs", "bundle", "created", "owner",
    "detached", "external_descriptors",
})  # fmt: skip
_CRUN_HANDLERS: Final = ("run.oci.", "module.wasm.")


def _crun(state: str) -> Notes | None:
    noted = _load(f"{state}/status")
    spec = _load(f"{state}/config.json")
    if (
        _speaks_of_more(noted, _CRUN_STATUS)
        or (spec.get("hooks") or {}).get("poststop")
        or (spec.get("linux") or {}).get("intelRdt")
        or any(key.startswith(_CRUN_HANDLERS) for key in spec.get("annotations") or ())
    ):
        return None
    return _crun_processes(state, noted)


def _crun_processes(state: str, noted: _Values | None = None) -> Notes:
    noted = _load(f"{state}/status") if noted is None else noted
    path = os.path.normpath(f"/{noted.get('cgroup-path') or ''}").removeprefix("/")
    paths = tuple(cgroups.directories(f"/{path}")) if path.strip("/") else ()
    return Notes(state, paths, _init(noted["pid"], noted["process-start-time"]))


_FORMATS: Final[Mapping[str, Callable[[str], Notes | None]]] = {
    "runc": _runc,
    "crun": _crun,
}


def _load(path: str) -> _Values:
    with open(path, "rb") as file:
        values: _Values = json.loads(file.read())
    return values


def _speaks_of_more(values: _Values, known: frozenset[str]) -> bool:
    return any(value and name not in known for name, value in values.items())


def _init(pid: object, started: object) -> Identity:
    if type(pid) is not int or type(started) is not int or pid <= 1:
        raise ValueError("no process is noted")
    return Identity.noted(pid, started)
