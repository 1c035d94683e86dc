"""What real runtimes note, and when we may delete a container without them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.machine import cgroups_named
from tests.shim.harness import make_rootfs, spec

from dunnage.drivers.runc import notes
from dunnage.drivers.runc.options import Options
from dunnage.host.cgroups import remove

pytestmark = pytest.mark.slow

RUNTIMES = ("runc", "crun")
FILES = {"runc": "state.json", "crun": "status"}


class Made:
    """A container whose init has ended, as its runtime left it."""

    def __init__(self, directory: Path, runtime: str, config: dict[str, Any]) -> None:
        self.runtime = runtime
        self.root = directory / "root"
        self.state = self.root / "c"
        self.cgroup: str = config["linux"]["cgroupsPath"]
        self.options = Options(binary_name=runtime)
        bundle = directory / "bundle"
        bundle.mkdir()
        make_rootfs(bundle / "rootfs")
        (bundle / "config.json").write_text(json.dumps(config))
        pid_file = bundle / "pid"
        self.call("create", "--bundle", str(bundle), "--pid-file", str(pid_file), "c")
        self.pid = int(pid_file.read_text())
        self.call("start", "c")

    def call(self, *arguments: str) -> None:
        """Call the runtime."""
        subprocess.run(
            [self.runtime, "--root", str(self.root), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def read(self) -> notes.Notes | None:
        """Read its notes."""
        return notes.read(str(self.state), self.options)

    def change(self, change: Callable[[dict[str, Any]], None], name: str = "") -> None:
        """Write in its notes."""
        file = self.state / (name or FILES[self.runtime])
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))


@pytest.fixture(params=RUNTIMES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    """A container that has ended."""
    container = Made(tmp_path, request.param, spec(["true"]))
    try:
        limit = time.monotonic() + 10
        while is_alive(container.pid) and time.monotonic() < limit:
            time.sleep(0.001)
        yield container
    finally:
        if container.state.exists():
            # Whatever a test has written there.
            subprocess.run(
                [container.runtime, "--root", container.root, "delete", "-f", "c"],
                check=False,
            )
        for group in cgroups_named(container.cgroup):
            group.rmdir()


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][0] not in "ZX"


def test_all_that_there_is(made: Made) -> None:
    """Its cgroups in all hierarchies, and init; nothing is left of it without them."""
    noted = made.read()
    assert noted is not None
    assert noted.init is not None
    assert made.pid == noted.init.pid
    assert not noted.init.is_alive()
    groups = cgroups_named(made.cgroup)
    assert groups
    assert {(g.stat().st_dev, g.stat().st_ino) for g in groups} == {
        (os.stat(p).st_dev, os.stat(p).st_ino)
        for p in noted.cgroups
        if os.path.exists(p) and not p.startswith("/sys/fs/cgroup/unified")
    }
    assert [] == remove(noted.cgroups)
    assert noted.remove()
    assert not made.state.exists()
    assert [] == cgroups_named(made.cgroup)
    assert notes.Notes(str(made.state)) == made.read()  # now there is nothing


def test_an_init_that_lives_is_known(tmp_path: Path) -> None:
    """Whose notes would otherwise be removed under it."""
    container = Made(tmp_path, "runc", spec(["sleep", "1000"]))
    try:
        noted = container.read()
        assert noted is not None
        assert noted.init is not None
        assert noted.init.is_alive()
    finally:
        container.call("delete", "--force", "c")


def test_hooks_are_the_runtime_s(made: Made) -> None:
    """Those that run after the end; the others have run."""
    hook = {"path": "/bin/true"}
    if made.runtime == "runc":
        made.change(lambda noted: noted["config"]["Hooks"].update(prestart=[hook]))
        assert made.read()
        made.change(lambda noted: noted["config"]["Hooks"].update(poststop=[hook]))
    else:
        name = "config.json"
        made.change(lambda config: config.update(hooks={"prestart": [hook]}), name)
        assert made.read()
        made.change(lambda config: config.update(hooks={"poststop": [hook]}), name)
    assert made.read() is None


def test_what_is_not_known_here_is_the_runtime_s(made: Made) -> None:
    """unknown-is-theirs: a field of the future, unless it is empty."""
    made.change(lambda noted: noted.update(tomorrow=[]))
    assert made.read()
    made.change(lambda noted: noted.update(tomorrow=["anything"]))
    assert made.read() is None


@pytest.mark.parametrize(
    "content", ["", "null", "[]", "{}", "[" * 100_000, '{"pid": 1}', '"config"']
)
def test_notes_that_make_no_sense_are_the_runtime_s(
    tmp_path: Path, content: str
) -> None:
    """unknown-is-theirs: whatever they are, and also if a file is missing."""
    for runtime, name in FILES.items():
        state = tmp_path / runtime
        state.mkdir()
        options = Options(binary_name=runtime)
        assert notes.read(str(state), options) is None
        (state / name).write_text(content)
        (state / "config.json").write_text(content)
        assert notes.read(str(state), options) is None


def test_resctrl_units_and_handlers_are_the_runtime_s(made: Made) -> None:
    """Groups of Intel's RDT, systemd's scopes, what is no Linux container."""
    systemd = Options(binary_name=made.runtime, systemd_cgroup=True)
    assert notes.read(str(made.state), systemd) is None
    if made.runtime == "runc":
        made.change(lambda noted: noted.update(intel_rdt_path="/sys/fs/resctrl/c"))
        assert made.read() is None
        return
    annotations = {"run.oci.handler": "krun"}
    made.change(lambda config: config.update(annotations=annotations), "config.json")
    assert made.read() is None
    made.change(lambda config: config.update(annotations={"a": "b"}), "config.json")
    assert made.read()
    made.change(lambda config: config["linux"].update(intelRdt={}), "config.json")
    assert made.read()
    schema = {"l3CacheSchema": "L3:0=ff"}
    made.change(lambda config: config["linux"].update(intelRdt=schema), "config.json")
    assert made.read() is None
    made.change(lambda noted: noted.update(scope="c.scope"))
    assert made.read() is None


def test_another_program_is_always_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another name, a script in a runtime's place, one that is not there."""
    state = str(tmp_path / "none")
    assert notes.read(state, Options()) == notes.Notes(state)
    assert notes.read(state, Options(binary_name="/usr/bin/true")) is None
    assert notes.read(state, Options(binary_name=str(tmp_path / "runc"))) is None
    script = tmp_path / "runc"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert notes.read(state, Options(binary_name=str(script))) is None
    real = shutil.which("runc")
    assert notes.read(state, Options(binary_name=str(real))) == notes.Notes(state)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert notes.read(state, Options()) is None
