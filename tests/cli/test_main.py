"""The command line: what is understood, and what is said of the rest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from dunnage import __version__
from dunnage.cli.main import _parser, _split, main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "b"], (["a", "b"], None)),
        (["a", "--", "b", "--", "c"], (["a"], ["b", "--", "c"])),
        (["--"], ([], [])),
    ],
)
def test_split(words: list[str], expected: tuple[list[str], list[str] | None]) -> None:
    """The first -- ends our own words; a later one is the command's."""
    assert _split(words) == expected


def test_command_without_dashes() -> None:
    """What follows the name is the command, options and all."""
    words = ["run", "--rootfs", "r", "c", "sh", "-c", "x"]
    assert _parser().parse_args(words).command == ["sh", "-c", "x"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nope"],
        ["run"],
        ["run", "c"],
        ["run", "--rootfs", "a", "--bundle", "b", "c"],
        ["rm"],
        ["ps", "c"],
        ["--namespace", "a/b", "ps"],
    ],
)
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is not understood is 125 and one line."""
    with pytest.raises(SystemExit) as end:
        sys.exit(main(words))
    status = end.value.code
    said = capsys.readouterr()
    assert (status, said.out, said.err.count("\n")) == (125, "", 1)
    assert said.err.startswith("dunnage: ")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help and version go to stdout and are no failure."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert (__version__ if words == ["--version"] else "usage: dunnage") in text


def test_ps_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A look makes nothing."""
    state = tmp_path / "s"
    assert main(["--state", str(state), "ps"]) == 0
    assert capsys.readouterr().out.splitlines() == ["NAME  PID  STATUS  SHIM"]
    assert not state.exists()
