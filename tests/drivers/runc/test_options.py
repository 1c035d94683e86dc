"""The options of a runtime, and their file in the bundle."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from dunnage.drivers.runc import Options

FULL = Options(
    no_pivot_root=True,
    no_new_keyring=True,
    shim_cgroup="/x",
    io_uid=1,
    io_gid=2,
    binary_name="crun",
    root="/root",
    criu_path="/criu",
    systemd_cgroup=True,
    criu_image_path="/image",
    criu_work_path="/work",
    task_api_address="/address",
    task_api_version=3,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Both files of the reference are there, private, and hold what was given."""
    for options in (FULL, Options()):
        options.write(str(tmp_path))
        assert options == Options.read(str(tmp_path))
        for name in ("options.json", "runtime"):
            assert 0o600 == stat.S_IMODE((tmp_path / name).stat().st_mode)
        assert options.binary_name == (tmp_path / "runtime").read_text()


def test_the_file_is_the_reference_s() -> None:
    """Snake case, and what is at its default is left out."""
    assert "{}" == Options().to_json()
    expected = {
        "no_pivot_root": True,
        "no_new_keyring": True,
        "shim_cgroup": "/x",
        "io_uid": 1,
        "io_gid": 2,
        "binary_name": "crun",
        "root": "/root",
        "criu_path": "/criu",
        "systemd_cgroup": True,
        "criu_image_path": "/image",
        "criu_work_path": "/work",
        "task_api_address": "/address",
        "task_api_version": 3,
    }
    assert expected == json.loads(FULL.to_json())


def test_what_the_reference_knows_more_is_skipped() -> None:
    """A file of the Go shim, of any version, can be read."""
    text = '{"binary_name": "crun", "criu": "/x", "task_api_version": "3"}'
    assert Options(binary_name="crun") == Options.from_json(text)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "[" * 100_000, "\xff\xfe"]
)
def test_a_broken_file_means_defaults(tmp_path: Path, text: str) -> None:
    """Whoever reads it has to bury a container, whatever became of the file."""
    (tmp_path / "options.json").write_text(text)
    assert Options() == Options.read(str(tmp_path))
    (tmp_path / "runtime").write_text("crun\n")
    assert Options(binary_name="crun") == Options.read(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        '{"root": 5, "binary_name": ["x"], "systemd_cgroup": true}',
        '{"root": null, "binary_name": {}, "systemd_cgroup": true}',
    ],
)
def test_a_value_of_the_wrong_type_is_skipped(tmp_path: Path, text: str) -> None:
    """What makes no sense is at its default; the rest counts."""
    (tmp_path / "options.json").write_text(text)
    assert Options(systemd_cgroup=True) == Options.read(str(tmp_path))


def test_files_that_cannot_be_read_mean_defaults(tmp_path: Path) -> None:
    """Neither a missing file nor a directory of that name is an error."""
    assert Options() == Options.read(str(tmp_path / "nowhere"))
    (tmp_path / "options.json").mkdir()
    (tmp_path / "runtime").mkdir()
    assert Options() == Options.read(str(tmp_path))


def test_the_older_file_names_the_program(tmp_path: Path) -> None:
    """`runtime` counts where `options.json` is silent."""
    (tmp_path / "runtime").write_text("crun")
    assert Options(binary_name="crun") == Options.read(str(tmp_path))
    (tmp_path / "options.json").write_text('{"binary_name": "youki"}')
    assert Options(binary_name="youki") == Options.read(str(tmp_path))


def test_the_command_line() -> None:
    """Without options it is runc, with its state where the reference has it."""
    assert ["runc", "--root", "/run/containerd/runc/ns"] == Options().command("ns")
    expected = ["crun", "--root", "/root/ns", "--systemd-cgroup"]
    assert expected == FULL.command("ns")


@pytest.mark.parametrize(
    ("path", "is_for_systemd"),
    [
        ("system.slice:docker:c", True),
        ("kubepods-pod_1.slice:cri-containerd:c", True),
        (":docker:c", True),
        ("-.slice::c", True),
        ("", False),
        ("/default/c", False),
        ("default/c", False),
        ("a:b:c", False),
        ("/system.slice:docker:c", False),
        ("system.slice:docker:", False),
        ("system.slice:docker", False),
        ("system.slice:a:b:c", False),
    ],
)
def test_the_spec_speaks_where_options_are_silent(
    path: str, is_for_systemd: bool
) -> None:
    """A path of systemd's form chooses its driver; no other path takes it away."""
    expected = Options(root="/r", systemd_cgroup=is_for_systemd)
    assert expected == Options(root="/r").for_cgroup(path)
    assert FULL == FULL.for_cgroup(path)
