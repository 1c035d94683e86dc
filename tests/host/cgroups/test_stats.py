"""Metrics from files as the kernel writes them: all that containerd knows is filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf.message import Message

from dunnage.api import metrics_v1_pb2, metrics_v2_pb2
from dunnage.host.cgroups import Stats, read_stats
from dunnage.host.cgroups import stats as module

V1_MEMORY = (
    *("cache", "rss", "rss_huge", "shmem", "mapped_file", "dirty", "writeback"),
    *("pgpgin", "pgpgout", "pgfault", "pgmajfault", "inactive_anon", "active_anon"),
    *("inactive_file", "active_file", "unevictable"),
)
V1_LIMITS = ("hierarchical_memory_limit", "hierarchical_memsw_limit")
MEMORY_PARTS = ("memory", "memory.memsw", "memory.kmem", "memory.kmem.tcp")
V2_MEMORY = (
    *("anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped"),
    *("file_dirty", "file_writeback", "anon_thp", "inactive_anon", "active_anon"),
    *("inactive_file", "active_file", "unevictable", "slab_reclaimable"),
    *("slab_unreclaimable", "pgfault", "pgmajfault", "workingset_refault_anon"),
    *("workingset_refault_file", "workingset_activate_file"),
    *("workingset_nodereclaim", "pgrefill", "pgscan", "pgsteal", "pgactivate"),
    *("pgdeactivate", "pglazyfree", "pglazyfreed", "thp_fault_alloc"),
    "thp_collapse_alloc",
)
PRESSURE = "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\nfull avg10=5.00 total=6\n"


def counted(names: tuple[str, ...], first: int = 1) -> str:
    """Return lines of names with numbers that count up."""
    return "".join(f"{name} {first + i}\n" for i, name in enumerate(names))


V1 = {
    "hugetlb.2MB.usage_in_bytes": "1",
    "hugetlb.2MB.max_usage_in_bytes": "2",
    "hugetlb.2MB.failcnt": "3",
    "hugetlb.2MB.rsvd.usage_in_bytes": "9",
    "pids.current": "4",
    "pids.max": "5",
    "cpuacct.usage": "60",
    "cpuacct.stat": "user 2\nsystem 3\n",
    "cpuacct.usage_percpu": "20 40 \n",
    "cpu.stat": "nr_periods 7\nnr_throttled 8\nthrottled_time 9\n",
    "memory.stat": counted(V1_MEMORY)
    + counted(V1_LIMITS, 101)
    + counted(tuple(f"total_{name}" for name in V1_MEMORY), 201),
    "memory.oom_control": "oom_kill_disable 1\nunder_oom 1\noom_kill 2\n",
    "rdma.current": "mlx hca_handle=1 hca_object=2\n",
    "rdma.max": "mlx hca_handle=3 hca_object=max\n",
    **{
        f"{part}.{name}": str(10 * i + j)
        for i, part in enumerate(MEMORY_PARTS, 1)
        for j, name in enumerate(
            ("limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt")
        )
    },
    **{
        f"blkio.{name}_recursive": "8:0 Read 1\n8:0 Total 1\n"
        for name in (
            *("io_queued", "io_service_time", "io_wait_time", "io_merged"),
            *("io_time", "sectors"),
        )
    },
    # Nothing went through the scheduler.
    "blkio.io_service_bytes_recursive": "",
    "blkio.throttle.io_service_bytes": "8:0 Write 77\n",
    "blkio.bfq.io_serviced_recursive": "259:99 Write 78\n",
}
V2 = {
    "pids.current": "4",
    "pids.max": "max",
    "cpu.stat": "usage_usec 1\nuser_usec 2\nsystem_usec 3\nnr_periods 4\n"
    "nr_throttled 5\nthrottled_usec 6\nnr_bursts 7\nburst_usec 8\n",
    "cpu.pressure": PRESSURE,
    "memory.stat": counted(V2_MEMORY),
    "memory.current": "501",
    "memory.max": "max",
    "memory.peak": "503",
    "memory.swap.current": "504",
    "memory.swap.max": "505",
    "memory.swap.peak": "506",
    "memory.pressure": PRESSURE,
    "memory.events": "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n",
    "rdma.current": "mlx hca_handle=1 hca_object=2\n",
    "rdma.max": "mlx hca_handle=3 hca_object=4\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n",
    "io.pressure": PRESSURE,
    "hugetlb.2MB.current": "1",
    "hugetlb.2MB.max": "2",
    "hugetlb.2MB.events": "max 3\n",
    "hugetlb.2MB.rsvd.current": "9",
}
V1_CONTROLLERS = ("hugetlb", "pids", "cpu", "cpuacct", "memory", "blkio", "rdma")


def written(directory: Path, files: Mapping[str, str]) -> str:
    """Write files, as they would be in a cgroup."""
    for name, text in files.items():
        (directory / name).write_text(text)
    return str(directory)


def read(directories: Mapping[str, str], pid: int = 0) -> Stats:
    """Read to the end."""
    reading = read_stats(directories, pid)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            stats: Stats = end.value
            return stats


def unset(message: Message, path: str = "") -> Iterator[str]:
    """Name the fields that have no value."""
    for field in message.DESCRIPTOR.fields:
        name = f"{path}{field.name}"
        value = getattr(message, field.name)
        if field.is_repeated:
            if not value:
                yield name
            elif field.message_type:
                yield from unset(value[0], f"{name}.")
        elif field.message_type:
            yield from (
                unset(value, f"{name}.") if message.HasField(field.name) else [name]
            )
        elif not value:
            yield name


def test_all_of_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what no file says; the throttling counts where no scheduler does."""
    (tmp_path / "partitions").write_text("8 0 100 sda\n")
    path = written(tmp_path, V1)
    content = module._content
    monkeypatch.setattr(
        *(module, "_content"),
        lambda name: content(name.replace("/proc/", f"{tmp_path}/")),
    )
    version, values = read(dict.fromkeys(V1_CONTROLLERS, path))
    metrics = metrics_v1_pb2.Metrics(**values)
    assert 1 == version
    assert {"network", "cgroup_stats"} == {
        name
        for name in unset(metrics)
        if not name.endswith((".minor", ".op", ".device"))
    }
    assert ["2MB"] == [pages.pagesize for pages in metrics.hugetlb]
    assert (60, 30_000_000, 20_000_000, [20, 40]) == (
        metrics.cpu.usage.total,
        metrics.cpu.usage.kernel,
        metrics.cpu.usage.user,
        list(metrics.cpu.usage.per_cpu),
    )
    assert (8, 208, 101, 102) == (
        metrics.memory.pg_pg_in,
        metrics.memory.total_pg_pg_in,
        metrics.memory.hierarchical_memory_limit,
        metrics.memory.hierarchical_swap_limit,
    )
    assert (20, 21, 22, 23) == (
        metrics.memory.swap.limit,
        metrics.memory.swap.usage,
        metrics.memory.swap.max,
        metrics.memory.swap.failcnt,
    )
    (entry,) = metrics.blkio.io_service_bytes_recursive
    assert ("Write", "/dev/sda", 8, 77) == (
        *(entry.op, entry.device, entry.major, entry.value),
    )
    (entry,) = metrics.blkio.io_serviced_recursive
    assert ("", 259, 99, 78) == (entry.device, entry.major, entry.minor, entry.value)
    assert (1 << 32) - 1 == metrics.rdma.limit[0].hca_objects
    (tmp_path / "pids.max").write_text("max")
    assert 0 == read({"pids": path}).values["pids"]["limit"]


def test_all_of_v2(tmp_path: Path) -> None:
    """But for the network, which no cgroup knows."""
    version, values = read({"": written(tmp_path, V2)})
    metrics = metrics_v2_pb2.Metrics(**values)
    assert 2 == version
    psi = {f"psi.full.avg{seconds}" for seconds in (60, 300)}
    assert {
        "network",
        "io.usage.minor",
        *(f"{name}.{part}" for name in ("cpu", "memory", "io") for part in psi),
    } == set(unset(metrics))
    assert (1 << 64) - 1 == metrics.pids.limit == metrics.memory.usage_limit
    memory = dict(zip(V2_MEMORY, range(1, 99), strict=False))
    names = ("workingset_refault_anon", "workingset_refault_file")
    assert sum(memory[name] for name in names) == metrics.memory.workingset_refault
    assert (1.0, 4) == (metrics.cpu.psi.some.avg10, metrics.cpu.psi.some.total)
    assert [("2MB", 1, 2, 3)] == [
        (pages.pagesize, pages.current, pages.max, pages.failcnt)
        for pages in metrics.hugetlb
    ]


def test_nothing_is_there(tmp_path: Path) -> None:
    """No cgroup, no values; what is hybrid is v1."""
    gone = str(tmp_path / "gone")
    assert (1, {}) == read({"memory": gone, "": gone, "name=systemd": gone})
    assert (2, {}) == read({"": gone, "name=systemd": gone})
    assert (2, {}) == read({})


def test_a_network_of_its_own(tmp_path: Path) -> None:
    """Only that is the container's; the host's is not."""
    path = written(tmp_path, V2)
    assert "network" not in read({"": path}, os.getpid()).values
    sleep = ["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(sleep, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        (interface,) = read({"": path}, process.pid).values["network"]
        process.kill()
    assert "lo" == interface["name"]
