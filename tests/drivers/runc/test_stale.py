"""Notes of an earlier boot: removed, without asking the runtime; those of now stay.

Invariant defended here: of-no-boot-but-this.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import reboot
from tests.machine import cgroups_named
from tests.shim.harness import spec

from dunnage.bootstrap import bundle as files
from dunnage.drivers.runc import bury, stale, traces
from dunnage.drivers.runc.options import Options
from dunnage.host.procs.identity import Identity

from .fake_runtime import FakeRuntime, as_shim
from .test_notes import RUNTIMES, Made, made

__all__ = ["made"]
pytestmark = pytest.mark.slow


@pytest.fixture(params=RUNTIMES)
def living(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    """A container that runs."""
    container = Made(tmp_path, request.param, spec(["sleep", "1000"]))
    try:
        yield container
    finally:
        if container.state.exists():
            container.call("delete", "--force", "c")
        for group in cgroups_named(container.cgroup):
            group.rmdir()


def test_of_this_boot(made: Made) -> None:
    """A container that has ended keeps its notes: its id is taken."""
    assert not stale.drop(str(made.state))
    assert made.state.exists()


def test_of_an_earlier_boot(made: Made) -> None:
    """They go, and once; the runtime takes the id again."""
    reboot.age(made.state)
    assert stale.drop(str(made.state))
    assert not made.state.exists()
    assert not stale.drop(str(made.state))
    bundle = str(made.root.parent / "bundle")
    made.call("create", "--bundle", bundle, "c")


def test_a_stranger_has_the_pid(made: Made) -> None:
    """Older notes are not believed: they go, and the stranger lives."""
    with reboot.stranger() as other:
        reboot.give_pid(made.state, made.runtime, other.pid)
        assert not stale.drop(str(made.state))
        reboot.age(made.state)
        assert stale.drop(str(made.state))
        assert other.poll() is None


def test_a_clock_that_was_set_forward(living: Made) -> None:
    """What lives has processes in its cgroup, however old it looks."""
    reboot.age(living.state)
    assert not stale.drop(str(living.state))
    assert not stale.drop(str(living.state), is_of_another_boot=True)
    # Without a cgroup that could tell, its init does.
    none: dict[str, dict[str, Any]] = {
        "runc": {"cgroup_paths": {}},
        "crun": {"cgroup-path": ""},
    }
    reboot.change(living.state / reboot.NOTES[living.runtime], **none[living.runtime])
    reboot.age(living.state)
    assert not stale.drop(str(living.state))


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b'{"id": "c", "ini', None])
def test_notes_that_a_crash_has_torn(tmp_path: Path, content: bytes | None) -> None:
    """Those of an earlier boot go; those of this one may be half written."""
    state = tmp_path / "c"
    state.mkdir()
    if content is not None:
        (state / "state.json").write_bytes(content)
    for known in (False, True):
        assert not stale.drop(str(state), is_of_another_boot=known)
    reboot.age(state)
    assert stale.drop(str(state))


def test_another_runtimes_notes_stay(tmp_path: Path) -> None:
    """Whether their container lives is not known here."""
    state = tmp_path / "c"
    state.mkdir()
    (state / "state.json").write_text('{"pid": 5, "status": "Running"}')
    reboot.age(state)
    assert not stale.drop(str(state))
    assert state.exists()


def test_where_the_boot_is_known(made: Made) -> None:
    """The clock is not needed, but what lives under that id keeps its notes."""
    with reboot.stranger() as other:
        before = (made.state / reboot.NOTES[made.runtime]).read_text()
        reboot.give_pid(made.state, made.runtime, other.pid)
        assert not stale.drop(str(made.state), is_of_another_boot=True)
        (made.state / reboot.NOTES[made.runtime]).write_text(before)
        assert stale.drop(str(made.state), is_of_another_boot=True)


# -- who asks


def _stale_bundle(container: Made, pid: int) -> str:
    """Return a bundle of the container, whose traces are of another boot."""
    directory = container.root.parent / "stale"
    directory.mkdir()
    root = str(container.root.parent)
    Options(binary_name=container.runtime, root=root).write(str(directory))
    shim = Identity(pid, reboot.started(pid), reboot.ANOTHER_BOOT)
    fields = {"shim": shim._asdict(), "cgroups": container_cgroups(container)}
    (directory / files.TRACES).write_text(json.dumps(fields))
    return str(directory)


def container_cgroups(container: Made) -> list[str]:
    """Return the directories of a container's cgroups."""
    return [str(path) for path in cgroups_named(container.cgroup)]


@pytest.mark.parametrize("knows", [True, False], ids=["traces", "no-traces"])
def test_burial_kills_no_stranger(made: Made, knows: bool) -> None:
    """By the name, pid and tick of an earlier boot, a runtime would kill it."""
    with reboot.stranger() as other:
        directory = _stale_bundle(made, other.pid)
        reboot.give_pid(made.state, made.runtime, other.pid)
        reboot.age(made.state)
        if not knows:
            os.unlink(f"{directory}/{files.TRACES}")
        assert [] == bury(directory, made.root.name, "c")
        assert not made.state.exists()
        assert other.poll() is None


def test_burial_spares_who_has_the_id_now(living: Made) -> None:
    """A bundle of an earlier boot has no claim on a container of this one."""
    with reboot.stranger() as other:
        directory = _stale_bundle(living, other.pid)
        assert traces.read(directory) is not None
        assert [] == bury(directory, living.root.name, "c")
    pids = subprocess.check_output(
        [living.runtime, "--root", living.root, "ps", "--format", "json", "c"]
    )
    assert [living.pid] == json.loads(pids)


@as_shim
async def test_create_with_an_id_of_an_earlier_boot(tmp_path: Path) -> None:
    """It works; with one of this boot it is the runtime's to refuse."""
    from dunnage.host.procs import Children

    with Children() as children:
        fake = FakeRuntime(tmp_path, children)
        fake.on("create", '[ ! -e $root/$id ] || fail "it exists already"')
        (fake.state / "old").mkdir(parents=True)
        with pytest.raises(Exception, match="it exists already"):
            await fake.create()
        assert (fake.state / "old").exists()
        reboot.age(fake.state)
        container = await fake.create()
        assert not (fake.state / "old").exists()
        await container.kill(9)
        await asyncio.sleep(0)
