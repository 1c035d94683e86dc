"""Deleting without the runtime where it would do no more; with it where it would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .harness import Shim, ended, in_loop, spec
from .test_delete import answer

pytestmark = pytest.mark.slow


def with_hook(directory: Path, *args: str) -> dict[str, Any]:
    """Return a spec with a hook that leaves a file when the container is no more."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat >{directory}/hooked"]}
    return spec(list(args), hooks={"poststop": [hook]})


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("shim_lives", [True, False])
@in_loop
async def test_its_hooks_run(tmp_path: Path, runtime: str, shim_lives: bool) -> None:
    """Those of the end are the runtime's work, for Delete and for `delete`."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", config=with_hook(tmp_path, "true"))
        pid = (await shim.call("c", "create")).pid
        await shim.call("c", "start")
        await shim.call("c", "wait")
        if shim_lives:
            await shim.call("c", "delete")
            await shim.call("c", "shutdown")
        else:
            await shim.kill_shim("c")
            assert pid == answer(shim.delete_action("c")).pid
        assert '"stopped"' in (tmp_path / "hooked").read_text()
        assert [] == await shim.gone("c")


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("shim_lives", [True, False])
@in_loop
async def test_it_need_not_be_there(
    tmp_path: Path, runtime: str, shim_lives: bool
) -> None:
    """Of an ordinary container nothing is left, though its runtime cannot run."""
    async with Shim(tmp_path, runtime=runtime) as shim:
        await shim.up("c", ["true"])
        await shim.call("c", "create")
        await shim.call("c", "start")
        await shim.call("c", "wait")
        log = shim.bundles / "c" / "log.json"
        log.unlink(missing_ok=True)
        log.mkdir()  # neither runtime starts without its log
        if shim_lives:
            await shim.call("c", "delete")
            await shim.call("c", "shutdown")
        else:
            await shim.kill_shim("c")
            said = shim.delete_action("c")
            assert b"" == said.stderr
        assert [] == await shim.gone("c")


@in_loop
async def test_an_init_out_of_its_cgroup_is_killed(tmp_path: Path) -> None:
    """A privileged one may leave it: the runtime knows its pid, and kills it."""
    async with Shim(tmp_path) as shim:
        await shim.up("c", ["sleep", "1000"])
        pid = (await shim.call("c", "create")).pid
        await shim.call("c", "start")
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            root = Path("/sys/fs/cgroup", names.removeprefix("name=") or "unified")
            if path.startswith("/dunnage-test-") and root.is_dir():
                (root / "cgroup.procs").write_text(str(pid))
        await shim.kill_shim("c")
        assert 137 == answer(shim.delete_action("c")).exit_status
        await ended(pid)
        assert [] == shim.leftovers("c")
