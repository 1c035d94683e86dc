"""Options in TOML, as containerd's configuration has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dunnage.drivers.runc import Options, configuration
from dunnage.errors import InvalidArgument


def test_every_key_that_users_know() -> None:
    """They are containerd's names, written down a second time."""
    text = b"""
        NoPivotRoot = true
        NoNewKeyring = true
        ShimCgroup = "/shims"
        IoUid = 1
        IoGid = 4294967295
        BinaryName = "/usr/bin/crun"
        Root = "/root"
        CriuPath = "/criu"
        SystemdCgroup = true
        CriuImagePath = "/image"
        CriuWorkPath = "/work"
        TaskApiAddress = "/address"
        TaskApiVersion = 3
    """
    expected = Options(
        no_pivot_root=True,
        no_new_keyring=True,
        shim_cgroup="/shims",
        io_uid=1,
        io_gid=4294967295,
        binary_name="/usr/bin/crun",
        root="/root",
        criu_path="/criu",
        systemd_cgroup=True,
        criu_image_path="/image",
        criu_work_path="/work",
        task_api_address="/address",
        task_api_version=3,
    )
    assert expected == configuration.parse(text, "x")


def test_what_the_client_keeps_in_the_same_table() -> None:
    """It passes its own keys on; and a table of nothing is the defaults."""
    text = b'TypeUrl = "x"\nConfigPath = ""\nBinaryName = "crun"\n'
    assert Options(binary_name="crun") == configuration.parse(text, "x")
    assert Options() == configuration.parse(b"", "x")


def test_a_whole_number_from_json() -> None:
    """Docker's JSON has only one kind of number."""
    assert Options(io_uid=1000) == configuration.parse(b"IoUid = 1000.0", "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('Binary = "crun"', r"^x: unknown option Binary \(known: BinaryName, .*IoUid"),
        ('binary_name = "crun"', "unknown option binary_name "),
        ('[options]\nBinaryName = "crun"', "unknown option options "),
        ("BinaryName = crun", r"^x: .*line 1"),
        ('BinaryName = "a"\nBinaryName = "b"', "^x: Cannot overwrite"),
        ("BinaryName = 1", "^x: BinaryName is to be a string$"),
        ('SystemdCgroup = "true"', "^x: SystemdCgroup is to be true or false$"),
        ("SystemdCgroup = 1", "SystemdCgroup is to be true or false"),
        ('IoUid = "0"', "^x: IoUid is to be a number$"),
        ("IoUid = true", "IoUid is to be a number"),
        ("IoUid = 1.5", "IoUid is to be a number"),
        ("IoUid = -1", "IoUid is to be a number"),
        ("IoUid = 4294967296", "IoUid is to be a number"),
        ("IoUid = inf", "IoUid is to be a number"),
        ("IoUid = " + "[" * 100_000, "^x: "),
        ("\xff", "^x: .*codec can't decode"),
    ],
)
def test_what_makes_no_sense_is_named(text: str, said: str) -> None:
    """Neither a key nor a value is passed over."""
    with pytest.raises(InvalidArgument, match=said):
        configuration.parse(text.encode("latin-1"), "x")


def test_a_file(tmp_path: Path) -> None:
    """Errors name it."""
    path = tmp_path / "options.toml"
    path.write_text('BinaryName = "crun"')
    assert Options(binary_name="crun") == configuration.read(str(path))
    path.write_text("Nothing = 1")
    with pytest.raises(InvalidArgument, match=f"^{path}: unknown option Nothing "):
        configuration.read(str(path))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is named, and nothing is ever waited for."""
    os.mkfifo(tmp_path / "fifo")
    for path, reason in (
        (tmp_path / "none", "no such file or directory"),
        (tmp_path / "fifo", "invalid argument"),
        (tmp_path, "invalid argument"),
    ):
        with pytest.raises(InvalidArgument, match=f"^config_path {path}: {reason}$"):
            configuration.read(str(path))
    with pytest.raises(InvalidArgument, match="'etc/x' is not an absolute path"):
        configuration.read("etc/x")
    with pytest.raises(InvalidArgument, match=r"^config_path '/\\x00': embedded null"):
        configuration.read("/\0")
