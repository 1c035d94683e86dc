"""What is measured again and again: one visit to a shim, in each round.

All times are taken here, outside of the shim, by one clock.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from dunnage.conformance.said import Kind

from .driver import Container, Driver, Failed
from .site import Site
from .wire import LOST_S, Steps

Figures: TypeAlias = dict[str, float | None]

EXECS_IN_A_ROW: Final = 3
PAUSE_S: Final = 0.1
"""So long nothing is created before an exec that is alone, as a health check is."""
EXECS_TOGETHER: Final = 40
AT_A_TIME: Final = 8
UNTIL_GO: Final = "exec 3>/tmp/last; read go </tmp/go; echo $EPOCHREALTIME >&3"
"""An init whose last act is to write the time (s), and then to exit."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_libc = ctypes.CDLL(None, use_errno=True)


def life(driver: Driver) -> Figures:
    """One life of `true`, and of it the time until the socket has answered (ms)."""
    container = driver.prepare(["true"])
    began = time.perf_counter()
    driver.start_shim(container)
    driver.call(container, "connect")
    answered = time.perf_counter()
    driver.create(container)
    driver.call(container, "start")
    heard = driver.hears_exit(container)
    driver.delete(container)
    driver.shutdown(container)
    ended = time.perf_counter()
    driver.bury(container)
    return {
        "start": (answered - began) * 1e3,
        "life": (ended - began) * 1e3 if heard else None,
    }


def floor(site: Site) -> Figures:
    """What the runtime needs for the same, called by nobody but us (ms)."""
    bundle = site.bundle("floor", f"floor-{time.monotonic_ns()}", ["true"])
    pid_file = bundle / "pid"
    with _subreaper():
        began = time.perf_counter()
        site.bind_root(bundle)
        _runtime(
            site, "create", "--bundle", bundle, "--pid-file", pid_file, bundle.name
        )
        _runtime(site, "start", bundle.name)
        os.waitpid(int(pid_file.read_text()), 0)
        _runtime(site, "delete", bundle.name)
        site.unbind_root(bundle)
        ended = time.perf_counter()
    site.drop_bundle(bundle)
    return {"floor": (ended - began) * 1e3}


def dead(driver: Driver) -> Figures:
    """`delete` of a container whose init and whose shim are dead (ms)."""
    container = driver.launch(["true"])
    driver.hears_exit(container)
    driver.kill_shim(container)
    began = time.perf_counter()
    driver.delete_action(container)
    ended = time.perf_counter()
    driver.bury(container)
    return {"delete": (ended - began) * 1e3}


def execs(driver: Driver) -> list[Figures]:
    """Execs of `true`, some in a row and one alone; the last act of init (ms)."""
    container = driver.launch(["sh", "-c", UNTIL_GO])
    found = [_exec(driver, container, f"e{n}") for n in range(EXECS_IN_A_ROW)]
    driver.site.hub.wait(lambda: False, PAUSE_S)
    found[0]["exec-quiet"] = _exec(driver, container, "quiet")["exec"]
    os.write(driver.site.go_fd, b"go\n")
    heard = driver.site.hub.hears(container.id, Kind.EXIT)
    came_ns = driver.site.hub.came_ns.get((container.id, "", Kind.EXIT), 0)
    driver.end(container, is_killed=False)
    last_ns = int(driver.site.last.read_text().replace(".", "")) * 1000
    found[0]["last-act"] = (came_ns - last_ns) / 1e6 if heard else None
    return found


def together(driver: Driver) -> Figures:
    """Execs of `true`, so many at a time (per second)."""
    container = driver.launch(["sleep", "100000"])
    lost: list[str] = []
    names = [f"t{n}" for n in range(EXECS_TOGETHER)]
    began = time.perf_counter()
    went = driver.site.hub.together(
        (_steps(driver, container, name, lost) for name in names), AT_A_TIME
    )
    ended = time.perf_counter()
    driver.end(container)
    whole = went and not lost
    return {"execs": EXECS_TOGETHER / (ended - began) if whole else None}


def _exec(driver: Driver, container: Container, name: str) -> Figures:
    fields = driver.exec_fields(name, ["true"])
    began = time.perf_counter()
    driver.call(container, "exec", **fields)
    pid = driver.call(container, "start", exec_id=name).pid
    heard = driver.hears_exit(container, name)
    ended = time.perf_counter()
    deleted = driver.call(container, "delete", exec_id=name)
    driver.note_exec(container, name, pid, deleted)
    return {"exec": (ended - began) * 1e3 if heard else None}


def _steps(driver: Driver, container: Container, name: str, lost: list[str]) -> Steps:
    """Lead one exec from its Exec to its Delete, waiting for nobody else."""
    call = driver.begin(container, "exec", **driver.exec_fields(name, ["true"]))
    yield call.done
    driver.answer(container, "exec", call)
    call = driver.begin(container, "start", exec_id=name)
    yield call.done
    pid = driver.answer(container, "start", call).pid
    key = (container.id, name, Kind.EXIT)
    came_ns = driver.site.hub.came_ns
    until = time.monotonic() + LOST_S
    yield lambda: key in came_ns or time.monotonic() > until
    if key not in came_ns:
        lost.append(name)
        call = driver.begin(container, "wait", exec_id=name)
        yield call.done
    call = driver.begin(container, "delete", exec_id=name)
    yield call.done
    driver.note_exec(container, name, pid, driver.answer(container, "delete", call))


def _runtime(site: Site, *arguments: str | Path) -> None:
    done = subprocess.run(
        [site.runtime, "--root", site.runtime_root(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{site.runtime} {arguments[0]}: {done.returncode}")


@contextlib.contextmanager
def _subreaper() -> Iterator[None]:
    """Become the parent of what the runtime leaves, as a shim is."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
