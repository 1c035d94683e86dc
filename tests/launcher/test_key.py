"""The key, read from /proc by the launcher, is what anybody else reads there."""

from __future__ import annotations

import os
import sys

import pytest

from dunnage.bootstrap import warm

from . import expected
from .scene import ARGV, Scene

VARIABLES = {
    "MALLOC_ARENA_MAX": "2",
    "PYTHONHASHSEED": "1",
    "GLIBC_TUNABLES": "",
    "GLIBC_TUNABLES_": "other",
    "LD_ODD": "é\nline",
    "XLD_": "other",
    "LD": "other",
}


def test_our_two_readings_agree(scene: Scene) -> None:
    """The test's own reading of /proc is that of the package."""
    entries = [os.fsencode(f"{name}={value}") for name, value in VARIABLES.items()]
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    key = warm.key(proc, scene.code, entries)
    os.close(proc)
    assert expected.key(scene.code, entries) == key
    assert expected.name(key) == warm.name(key)
    assert warm.code("1", str(scene.launcher)) == expected.code("1", scene.launcher)


def test_the_name_is_made_of_the_key(scene: Scene) -> None:
    """The launcher makes the directory that has the name of the key."""
    for variables in ({}, VARIABLES):
        scene.more = dict(variables)
        scene.run(*ARGV)
        name = expected.name(expected.key(scene.code, scene.entries()))
        assert name in os.listdir(scene.servers)
    assert len(os.listdir(scene.servers)) == 2


@pytest.mark.parametrize(
    "prefix",
    [
        ["unshare", "--uts"],
        ["unshare", "--mount"],
        ["unshare", "--pid", "--fork"],
        ["nice", "-n", "5"],
        ["chrt", "--rr", "3"],
        ["setpriv", "--bounding-set", "-sys_boot"],
        ["setpriv", "--no-new-privs"],
        ["setpriv", "--groups", "4,5,6"],
        ["prlimit", "--core=1"],
        ["taskset", "1"],
        ["setarch", "--addr-no-randomize"],
        ["sh", "-c", 'echo 100 >/proc/self/oom_score_adj; exec "$@"', "-"],
    ],
    ids=" ".join,
)
def test_the_key_follows_what_is_inherited(scene: Scene, prefix: list[str]) -> None:
    """In other surroundings launcher and package still read the same."""
    reading = (
        "import os, sys; from dunnage.bootstrap import warm;"
        "proc = os.open('/proc/self', os.O_RDONLY);"
        "own = [k + b'=' + v for k, v in os.environb.items()];"
        "print(warm.name(warm.key(proc, sys.argv[1], own)), end='')"
    )
    # Both in one process's surroundings, one after the other.
    script = '"$0" "$@" >/dev/null 2>&1 </dev/null; exec "$PYTHON" -c "$READ" "$CODE"'
    scene.more = {"PYTHON": sys.executable, "READ": reading, "CODE": scene.code}
    done = scene.run(*ARGV, prefix=[*prefix, "sh", "-c", script])
    assert done.returncode == 0, done.stderr
    assert os.listdir(scene.servers) == [done.stdout.decode()]
