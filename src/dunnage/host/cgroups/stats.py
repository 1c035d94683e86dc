"""What a container uses, read from the files of its cgroups; on v1 and v2.

Owns: which files there are, and what of them is told.
Must not know: protobuf; yet the names are those of containerd's metrics.

A file that is not there is passed over, and so is what the kernel does not know.
So are the states of threads (v1), which are told by netlink only, and wrongly: since
Linux 6.1 whoever sleeps freezably is in none of them (tried).
Each read takes microseconds, and there are dozens: between two groups of files others
may have their turn, so it is a generator.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from . import formats
from .formats import UNLIMITED

Values: TypeAlias = dict[str, Any]
Reading: TypeAlias = Generator[None, None, "Stats"]
T = TypeVar("T")

_MOST_BYTES: Final = 1 << 20
_MOST_U32: Final = (1 << 32) - 1


class Stats(NamedTuple):
    """What a container uses, in containerd's names."""

    version: int
    """Of cgroups, 1 or 2."""
    values: Values
    """Empty: there is no cgroup any more."""


def read(directories: Mapping[str, str], pid: int) -> Reading:
    """Read all there is, a group of files at a time; the generator returns it.

    Args:
        directories: those of the cgroup, by controller, as `of_process` gives them.
        pid: a process whose network is the container's, unless it is ours as well.
    """
    is_v1 = any(name and "=" not in name for name in directories)
    values: Values = {}
    for name, value in _v1(directories) if is_v1 else _v2(directories.get("", "")):
        if value:
            values[name] = value
        yield
    if values and (network := _network(pid)):
        values["network"] = network
    return Stats(1 if is_v1 else 2, values)


_Parts: TypeAlias = Iterable[tuple[str, Any]]

# -- v1

_V1_MEMORY: Final = {
    **{
        name: name
        for name in (
            *("cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback"),
            *("inactive_anon", "active_anon", "inactive_file", "active_file"),
            "unevictable",
        )
    },
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
}
_V1_MEMORY_LIMITS: Final = {
    "hierarchical_memory_limit": "hierarchical_memory_limit",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}
_V1_MEMORY_ENTRIES: Final = {
    "usage": "memory",
    "swap": "memory.memsw",
    "kernel": "memory.kmem",
    "kernel_tcp": "memory.kmem.tcp",
}
_V1_MEMORY_ENTRY: Final = {
    "limit": "limit_in_bytes",
    "usage": "usage_in_bytes",
    "max": "max_usage_in_bytes",
    "failcnt": "failcnt",
}
_V1_BLOCK: Final = {
    f"{name}_recursive": name
    for name in (
        *("io_service_bytes", "io_serviced", "io_queued", "io_service_time"),
        *("io_wait_time", "io_merged", "io_time", "sectors"),
    )
}
_V1_BLOCK_FILES: Final = (
    # Of the scheduler that is in use, or else of the throttling, which counts always.
    *("blkio.{}_recursive", "blkio.bfq.{}_recursive"),
    *("blkio.throttle.{}_recursive", "blkio.throttle.{}"),
)


def _v1(at: Mapping[str, str]) -> _Parts:
    if path := at.get("hugetlb"):
        names = {"usage": "usage_in_bytes", "max": "max_usage_in_bytes"}
        names["failcnt"] = "failcnt"
        yield "hugetlb", _huge_pages(path, "usage_in_bytes", names)
    if path := at.get("pids"):
        yield "pids", _v1_pids(path)
    yield "cpu", _v1_cpu(at.get("cpuacct", ""), at.get("cpu", ""))
    if path := at.get("memory"):
        yield "memory", _v1_memory(path)
        yield "memory_oom_control", _read(path, "memory.oom_control", formats.flat)
    if path := at.get("blkio"):
        yield "blkio", _v1_block(path)
    if path := at.get("rdma"):
        yield "rdma", _rdma(path)


def _v1_pids(path: str) -> Values:
    found = _numbers(path, {"current": "pids.current", "limit": "pids.max"})
    if found.get("limit") == UNLIMITED:
        found["limit"] = 0
    return found


def _v1_cpu(usage: str, throttling: str) -> Values:
    found: Values = {}
    if (total := _read(usage, "cpuacct.usage", formats.number)) is not None:
        ticks = _read(usage, "cpuacct.stat", formats.ticks_ns) or {}
        found["usage"] = {
            "total": total,
            "kernel": ticks.get("system", 0),
            "user": ticks.get("user", 0),
            "per_cpu": _read(usage, "cpuacct.usage_percpu", formats.numbers) or [],
        }
    if stat := _read(throttling, "cpu.stat", formats.flat):
        names = {"nr_periods": "periods", "nr_throttled": "throttled_periods"}
        names["throttled_time"] = "throttled_time"
        found["throttling"] = _renamed(stat, names)
    return found


def _v1_memory(path: str) -> Values:
    stat = _read(path, "memory.stat", formats.flat) or {}
    found = _renamed(stat, _V1_MEMORY) | _renamed(stat, _V1_MEMORY_LIMITS)
    totals = {f"total_{name}": f"total_{ours}" for name, ours in _V1_MEMORY.items()}
    found |= _renamed(stat, totals)
    for name, prefix in _V1_MEMORY_ENTRIES.items():
        files = {key: f"{prefix}.{file}" for key, file in _V1_MEMORY_ENTRY.items()}
        if entry := _numbers(path, files):
            found[name] = entry
    return found


def _v1_block(path: str) -> Values:
    names = formats.partitions(_content("/proc/partitions") or b"")
    found: Values = {}
    for field, name in _V1_BLOCK.items():
        for file in _V1_BLOCK_FILES:
            if entries := _read(path, file.format(name), formats.block):
                found[field] = [
                    {**entry._asdict(), "device": f"/dev/{names[entry[:2]]}"}
                    if entry[:2] in names
                    else entry._asdict()
                    for entry in entries
                ]
                break
    return found


# -- v2

_V2_CPU: Final = (
    *("usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled"),
    *("throttled_usec", "nr_bursts", "burst_usec"),
)
_V2_MEMORY: Final = (
    *("anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped"),
    *("file_dirty", "file_writeback", "anon_thp", "inactive_anon", "active_anon"),
    *("inactive_file", "active_file", "unevictable", "slab_reclaimable"),
    *("slab_unreclaimable", "pgfault", "pgmajfault", "workingset_refault"),
    *("workingset_activate", "workingset_nodereclaim", "pgrefill", "pgscan"),
    *("pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed"),
    *("thp_fault_alloc", "thp_collapse_alloc"),
)
_V2_WORKING_SET: Final = ("workingset_refault", "workingset_activate")
"""Told apart by kind of memory since Linux 5.9."""
_V2_MEMORY_FILES: Final = {
    "usage": "memory.current",
    "usage_limit": "memory.max",
    "max_usage": "memory.peak",
    "swap_usage": "memory.swap.current",
    "swap_limit": "memory.swap.max",
    "swap_max_usage": "memory.swap.peak",
}
_V2_EVENTS: Final = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")
_V2_IO: Final = ("rbytes", "wbytes", "rios", "wios")


def _v2(path: str) -> _Parts:
    yield "pids", _numbers(path, {"current": "pids.current", "limit": "pids.max"})
    cpu = _picked(_read(path, "cpu.stat", formats.flat) or {}, _V2_CPU)
    yield "cpu", _with_pressure(cpu, path, "cpu.pressure")
    yield "memory", _v2_memory(path)
    events = _read(path, "memory.events", formats.flat) or {}
    yield "memory_events", _picked(events, _V2_EVENTS)
    yield "rdma", _rdma(path)
    yield "io", _v2_io(path)
    names = {"current": "current", "max": "max"}
    yield "hugetlb", _huge_pages(path, "current", names, events="events")


def _v2_memory(path: str) -> Values:
    stat = _read(path, "memory.stat", formats.flat) or {}
    for name in _V2_WORKING_SET:
        parts = [stat[key] for key in (f"{name}_anon", f"{name}_file") if key in stat]
        if parts:
            stat.setdefault(name, sum(parts))
    found = _picked(stat, _V2_MEMORY) | _numbers(path, _V2_MEMORY_FILES)
    return _with_pressure(found, path, "memory.pressure")


def _v2_io(path: str) -> Values:
    found: Values = {}
    usage = [
        {"major": at[0], "minor": at[1], **_picked(values, _V2_IO)}
        for device, values in _read(path, "io.stat", formats.nested) or ()
        if (at := formats.device_number(device))
    ]
    if usage:
        found["usage"] = usage
    return _with_pressure(found, path, "io.pressure")


# -- both

_HUGE: Final = "hugetlb."


def _huge_pages(
    path: str, sign: str, names: Mapping[str, str], *, events: str = ""
) -> list[Values]:
    """Read the files of each size of pages: it is in their names."""
    found = []
    for file in _listed(path):
        if (
            file.startswith(_HUGE)
            and file.endswith(f".{sign}")
            and ".rsvd." not in file
        ):
            size = file[len(_HUGE) : -len(sign) - 1]
            files = {key: f"{_HUGE}{size}.{name}" for key, name in names.items()}
            entry = {"pagesize": size, **_numbers(path, files)}
            if events:
                told = _read(path, f"{_HUGE}{size}.{events}", formats.flat) or {}
                entry["failcnt"] = told.get("max", 0)
            found.append(entry)
    return sorted(found, key=lambda entry: str(entry["pagesize"]))


def _rdma(path: str) -> Values:
    found: Values = {}
    for name, file in (("current", "rdma.current"), ("limit", "rdma.max")):
        entries = [
            {
                "device": device,
                "hca_handles": min(values.get("hca_handle", 0), _MOST_U32),
                "hca_objects": min(values.get("hca_object", 0), _MOST_U32),
            }
            for device, values in _read(path, file, formats.nested) or ()
        ]
        if entries:
            found[name] = entries
    return found


def _network(pid: int) -> list[dict[str, int | str]]:
    """Read what went over a process's interfaces, unless they are the host's."""
    try:
        if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            return []
    except OSError:
        return []
    return _read(f"/proc/{pid}/net", "dev", formats.interfaces) or []


def _with_pressure(values: Values, path: str, file: str) -> Values:
    if psi := _read(path, file, formats.pressure):
        values["psi"] = psi
    return values


def _numbers(path: str, files: Mapping[str, str]) -> Values:
    """Read a number from each file that is there."""
    found = {}
    for key, file in files.items():
        if (value := _read(path, file, formats.number)) is not None:
            found[key] = value
    return found


def _picked(values: Mapping[str, int], names: Iterable[str]) -> Values:
    return {name: values[name] for name in names if name in values}


def _renamed(values: Mapping[str, int], names: Mapping[str, str]) -> Values:
    return {ours: values[name] for name, ours in names.items() if name in values}


def _read(path: str, file: str, parse: Callable[[bytes], T]) -> T | None:
    data = _content(f"{path}/{file}") if path else None
    return None if data is None else parse(data)


def _content(path: str) -> bytes | None:
    """Read a file of the kernel's; some cannot be read where they have no meaning."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(fd, _MOST_BYTES):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(fd)


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
