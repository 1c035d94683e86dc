"""Outputs that are appended to files."""

from __future__ import annotations

import os
import random
import stat
from typing import TYPE_CHECKING

import pytest
from tests.host.stdio.clients import open_fds, run, until

from dunnage.errors import DunnageError
from dunnage.host.stdio import Held, Stdio

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.host.stdio.clients import Processes


def say(processes: Processes, script: str, **streams: str) -> None:
    """Have a script say something to its end, and see that nothing stays open."""

    async def scenario() -> None:
        stdio = Stdio.open(**streams)  # type: ignore[arg-type]
        processes.child(stdio, script)
        stdio.start()
        assert await stdio.drained(30)
        stdio.close()

    before = open_fds()
    run(scenario())
    assert before == open_fds()


def test_megabytes_are_appended(tmp_path: Path, processes: Processes) -> None:
    """Byte for byte, after what was there; it may be read by everybody."""
    wanted = random.Random(7).randbytes(5 << 20)
    (tmp_path / "wanted").write_bytes(wanted)
    path = tmp_path / "a/b c/log"
    script = f"cat {tmp_path}/wanted"
    say(processes, script, stdout=f"file://{tmp_path}/a/b%20c/log")
    say(processes, script, stdout=f"file://{tmp_path}/a/b%20c/log?x=y#z")
    assert wanted * 2 == path.read_bytes()
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)
    assert 0o755 == stat.S_IMODE(path.parent.stat().st_mode)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ({"stdout": "a"}, {"a": "out\n"}),
        ({"stderr": "a"}, {"a": "err\n"}),
        ({"stdout": "a", "stderr": "b"}, {"a": "out\n", "b": "err\n"}),
        ({"stdout": "a", "stderr": "a"}, {"a": "out\nerr\n"}),
    ],
)
def test_each_output_goes_to_its_own(
    tmp_path: Path,
    processes: Processes,
    names: dict[str, str],
    wanted: dict[str, str],
) -> None:
    """Whichever are given; one file for both gets them in the order written."""
    uris = {name: f"file://{tmp_path}/{file}" for name, file in names.items()}
    say(processes, "echo out; echo err >&2", **uris)
    assert wanted == {path.name: path.read_text() for path in tmp_path.iterdir()}


def test_a_file_beside_a_fifo(
    tmp_path: Path, fifo: Callable[[str], Path], processes: Processes
) -> None:
    """Each output has the sink that its own name says."""
    processes.reader(fifo("f"), tmp_path / "got")
    streams = {"stdout": f"file://{tmp_path}/log", "stderr": str(tmp_path / "f")}
    say(processes, "echo out; echo err >&2", **streams)
    assert ("out\n", "err\n") == tuple(
        (tmp_path / name).read_text() for name in ("log", "got")
    )


def test_a_fifo_in_the_place_of_a_file(
    tmp_path: Path, fifo: Callable[[str], Path], processes: Processes
) -> None:
    """It is one: nobody is killed for want of a reader."""
    path = fifo("f")

    async def scenario() -> None:
        stdio = Stdio.open(stdout=f"file://{path}")
        process = processes.child(stdio, "echo out")
        stdio.start()
        await until(lambda: process.poll() == 0)
        processes.reader(path, tmp_path / "got")
        assert await stdio.drained(10)

    run(scenario())
    assert "out\n" == (tmp_path / "got").read_text()


def test_what_cannot_be_written_is_dropped_and_counted(
    tmp_path: Path, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk does not stop the process; it is said at once, and at the end."""

    async def scenario() -> None:
        stdio = Stdio.open(stdout="file:///dev/full", stderr=f"file://{tmp_path}/err")
        processes.child(stdio, "head -c 200000 /dev/zero; echo done >&2")
        stdio.start()
        assert await stdio.drained(10)
        held = Held()
        held.keep(stdio, "c")
        assert not len(held)

    before = open_fds()
    run(scenario())
    assert before == open_fds()
    assert "done\n" == (tmp_path / "err").read_text()
    said = [record.getMessage() for record in caplog.records]
    text = "/dev/full cannot be written, output is dropped: no space left on device"
    assert [text, "200000 bytes of its output were never read"] == said


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("file://a/b", r"^file://a/b has no absolute path$"),
        ("file://", r"^file:// has no absolute path$"),
        ("file:///proc/no/x", r"I/O: open /proc/no/x: no such file or directory$"),
        ("file:///dev/null/x", r"I/O: open /dev/null/x: not a directory$"),
        ("file:///proc", r"I/O: open /proc: is a directory$"),
        ("file:///a%00b", r"I/O: open /a\x00b: invalid argument$"),
    ],
)
def test_what_is_no_file_is_refused(uri: str, text: str) -> None:
    """And leaves nothing open."""

    async def scenario() -> None:
        with pytest.raises(DunnageError, match=text):
            Stdio.open(stdout=uri)

    before = open_fds()
    run(scenario())
    assert before == open_fds()


def test_what_is_written_again_is_there(tmp_path: Path, processes: Processes) -> None:
    """A file that somebody truncates goes on at its new end."""
    log = tmp_path / "log"

    async def scenario() -> None:
        stdio = Stdio.open(stdout=f"file://{log}")
        processes.child(stdio, f"echo one; read x <{tmp_path}/go; echo two")
        stdio.start()
        await until(lambda: log.read_text() == "one\n")
        os.truncate(log, 0)
        (tmp_path / "go").write_text("\n")
        assert await stdio.drained(10)

    os.mkfifo(tmp_path / "go")
    run(scenario())
    assert "two\n" == log.read_text()
