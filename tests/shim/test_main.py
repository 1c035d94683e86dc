"""The command line of the shim binary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dunnage import __version__
from dunnage.api import typeurl
from dunnage.api.runc_options_pb2 import Options
from dunnage.api.runtime_options_pb2 import Options as RuntimeOptions
from dunnage.api.types_pb2 import RuntimeInfo
from dunnage.shim import main

from .harness import OURS


def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the shim binary."""
    argv = [str(OURS), *words]
    return subprocess.run(argv, input=stdin, capture_output=True, check=False)


def test_cold_start() -> None:
    """cold-start: the thin client imports neither asyncio nor protobuf."""
    program = (
        "import json, sys; before = set(sys.modules); import dunnage.shim.main;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    # -S and -I: what site brings in is not ours to answer for.
    source = str(Path(main.__file__).parents[2])
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {source!r});{program}",
    ]
    imported = json.loads(subprocess.check_output(argv))
    assert "dunnage.shim.main" in imported
    roots = {name.partition(".")[0] for name in imported}
    assert not roots & {"asyncio", "google", "json", "socket", "typing"}


def test_the_version_is_printed() -> None:
    """-v and -version print the binary's name and version, whatever else is said."""
    for word in ("-v", "--version"):
        done = run(word, "start")
        assert (0, b"") == (done.returncode, done.stderr)
        first, second, *_ = done.stdout.decode().splitlines()
        assert first == "containerd-shim-dunnage-v2:"
        assert second == f"  Version:  {__version__}"


def test_info_is_a_message() -> None:
    """-info answers with RuntimeInfo and nothing else, with options or without."""
    for stdin in (b"", b"\x0a\x01x"):
        done = run("-info", stdin=stdin)
        assert (0, b"") == (done.returncode, done.stderr)
        info = RuntimeInfo.FromString(done.stdout)
        assert info.name == "io.containerd.dunnage.v2"
        assert info.version.version == __version__
        # What runc says of itself.
        url = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
        assert url == info.features.type_url
        features = json.loads(info.features.value)
        assert "1.0.0" == features["ociVersionMin"]
        assert features["annotations"] == dict(info.annotations)
        assert "org.opencontainers.runc.version" in info.annotations


def packed(**fields: Any) -> bytes:
    """Return options as -info takes them."""
    return typeurl.pack(Options(**fields)).SerializeToString()


def test_info_of_another_runtime(tmp_path: Path) -> None:
    """What another one says on stdout; one without the command has no features."""
    program = tmp_path / "x"
    says = """echo warning >&2; echo '{"annotations": 1}'"""
    script = f'[ "$*" = features ] || exit 9\n{says}'
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    given = packed(binary_name=str(program))
    done = run("-info", stdin=given)
    assert (0, b"") == (done.returncode, done.stderr)
    info = RuntimeInfo.FromString(done.stdout)
    assert {"annotations": 1} == json.loads(info.features.value)
    assert {} == info.annotations
    assert given == info.options.SerializeToString()
    for script in ("exit 3", "echo not json", "echo 5"):
        program.write_text(f"#!/bin/sh\n{script}")
        done = run("-info", stdin=given)
        assert (0, b"") == (done.returncode, done.stderr)
        assert not RuntimeInfo.FromString(done.stdout).HasField("features")


def test_info_that_cannot_be_had() -> None:
    """A runtime that is not there, and options that make no sense."""
    toml = RuntimeOptions(config_body=b"Bad = 1")
    for stdin, said in (
        (packed(binary_name="no-such"), 'exec: "no-such": executable file not found'),
        (packed(binary_name="/no/such"), "fork/exec /no/such: no such file"),
        (typeurl.pack(toml).SerializeToString(), "config_body: unknown option Bad "),
        (b"\x0a\x01x\x12\x01y", "type with url x"),
        (b"\xff", "options: "),
    ):
        done = run("-info", stdin=stdin)
        assert (1, b"") == (done.returncode, done.stdout)
        assert said in done.stderr.decode()


def test_an_unknown_flag_shows_the_usage() -> None:
    """A flag that is not defined: Go's text and a usage on stderr, exit 2."""
    done = run("-namespace", "n", "-bogus", "start")
    assert (2, b"") == (done.returncode, done.stdout)
    first, second, *_ = done.stderr.decode().splitlines()
    assert first == "flag provided but not defined: -bogus"
    assert second.startswith("Usage of containerd-shim-dunnage-v2:")


def test_help_is_no_error() -> None:
    """-h shows the usage on stderr and exits 0, as Go's flags do."""
    done = run("-h")
    assert (0, b"") == (done.returncode, done.stdout)
    assert done.stderr.startswith(b"Usage of containerd-shim-dunnage-v2:")


@pytest.mark.parametrize("action", ["start", "delete", ""])
def test_a_namespace_is_needed(action: str) -> None:
    """Without a namespace every action ends with the reference's text and exit 1."""
    done = run("-id", "c", *([action] if action else []))
    assert (1, b"") == (done.returncode, done.stdout)
    expected = "containerd-shim-dunnage-v2: shim namespace cannot be empty"
    assert expected == done.stderr.decode()


def test_an_unknown_action_is_refused() -> None:
    """A word that is no action is told on stderr, exit 2."""
    done = run("-namespace", "n", "-id", "c", "restart")
    assert (2, b"") == (done.returncode, done.stdout)
    assert b"unknown action 'restart'" in done.stderr


def test_an_error_is_one_line() -> None:
    """Whatever goes wrong is described by one line without a line's end."""
    assert "a b c" == main.describe(ValueError("a\n  b\tc\n"))
    assert "ValueError" == main.describe(ValueError())
