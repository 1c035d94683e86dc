"""Odd words, entries and options: they arrive as they are, byte for byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import build, expected
from .scene import ARGV, COLD, Scene, answers

STRINGS = st.binary(max_size=60).map(lambda data: data.replace(b"\0", b"="))
ENTRIES = STRINGS | st.builds(
    lambda name, value: name + value,
    st.sampled_from([b"PYTHON", b"MALLOC_", b"LD_ODD", b"GLIBC_TUNABLES_", b"=", b""]),
    STRINGS,
)
# The action stands in front: what is odd comes behind, or as a value.
FLAGS = st.lists(
    st.builds(
        lambda flag, value: [flag, value] if value else [b"-debug"],
        st.sampled_from([b"-namespace", b"--id", b"-address"]),
        STRINGS,
    ),
    max_size=4,
).map(lambda pairs: [word for pair in pairs for word in pair])
LARGE = st.sampled_from([b"", bytes(range(256)) * 3000, b"\0" * 70000])

ODD = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def carries(
    scene: Scene, argv: list[bytes], environ: list[bytes], stdin: bytes
) -> None:
    """Run a launcher; the request must be what was given, the answer what was said."""
    with scene.server(answers(), environ) as heard:
        done = scene.run_odd(argv, environ, stdin)
    shutil.rmtree(scene.servers)
    assert (7, b"out", b"err") == (done.returncode, done.stdout, done.stderr)
    mask = os.umask(0)
    os.umask(mask)
    assert [expected.request(scene.code, argv or [b""], environ, stdin, mask)] == [
        each.message for each in heard
    ]
    assert heard[0].words == b"GK"


@pytest.mark.slow
@ODD
@given(
    name=STRINGS,
    flags=FLAGS,
    behind=st.lists(STRINGS, max_size=5),
    entries=st.lists(ENTRIES, max_size=8),
    stdin=st.binary(max_size=300) | LARGE,
)
def test_whatever_is_given_arrives(
    scene: Scene,
    name: bytes,
    flags: list[bytes],
    behind: list[bytes],
    entries: list[bytes],
    stdin: bytes,
) -> None:
    """Bytes that are no text, nothing at all, entries twice and without a value."""
    environ = [b"DUNNAGE_FORKSERVER=" + os.fsencode(scene.servers), *entries]
    carries(scene, [name, *flags, b"start", *behind], environ, stdin)


@pytest.mark.slow
def test_the_sanitizers_find_nothing(tmp_path: Path, programs: Path) -> None:
    """Over odd input and odd answers: no byte beside what is ours."""
    if not build.can_sanitize(tmp_path):
        pytest.skip("the compiler has no sanitizers")
    program = build.build(tmp_path / "sanitized", *build.SANITIZED, *build.PATIENT)
    with Scene(tmp_path / "scene", program, programs / "odd") as scene:
        # What is never given back ends with the process.
        quiet = b"ASAN_OPTIONS=detect_leaks=0"
        always = [b"DUNNAGE_FORKSERVER=" + os.fsencode(scene.servers), quiet]

        @settings(max_examples=25, deadline=None)
        @given(
            argv=st.builds(
                lambda *parts: [parts[0], *parts[1], b"start"], STRINGS, FLAGS
            ),
            entries=st.lists(ENTRIES, max_size=8),
            stdin=st.binary(max_size=300) | LARGE,
        )
        def arrives(argv: list[bytes], entries: list[bytes], stdin: bytes) -> None:
            carries(scene, argv, [*always, *entries], stdin)

        @settings(max_examples=25, deadline=None)
        @given(answer=st.binary(max_size=40), stdin=st.binary(max_size=9) | LARGE)
        def survives(answer: bytes, stdin: bytes) -> None:
            with scene.server(answers(b"B" + answer), always):
                done = scene.run_odd([b"s", b"start"], always, stdin)
            assert (COLD, b"cold", b"") == (done.returncode, done.stdout, done.stderr)
            assert stdin.hex() == scene.cold()["stdin"]

        arrives()
        survives()
        scene.mode("serve")
        assert scene.run_odd([b"s", b"start"], always).returncode == 7


def test_without_any_word_there_is_one(scene: Scene) -> None:
    """An empty argv is a name that is empty, to Python as to a server."""
    done = scene.run_odd([], scene.entries())
    assert (COLD, b"cold") == (done.returncode, done.stdout)
    assert b"DUNNAGE_ARGV0=".hex() in scene.cold()["environ"]


def test_a_huge_environment(scene: Scene) -> None:
    """As much as the kernel takes of us goes through, beyond a socket's buffer."""
    environ = [*scene.entries(), *(b"X%d=" % n + b"x" * 100_000 for n in range(12))]
    carries(scene, [b"shim", *map(os.fsencode, ARGV)], environ, b"")
