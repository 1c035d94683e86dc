"""Loggers, which are real programs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.host.stdio.clients import open_fds, run, until

from dunnage.errors import DunnageError
from dunnage.host.procs import Child, Children
from dunnage.host.stdio import Held, Logged, Stdio, logger
from dunnage.host.stdio.null import NullSink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

KEEPS = "exec 5>&-; cat <&3 >>$1/out & cat <&4 >>$1/err & wait"
TELLS = f"""#!{sys.executable} -IS
import json, os, resource, sys
fds = {{}}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[name] = os.readlink(f"/proc/self/fd/{{name}}")
    except OSError:
        pass  # that of the listing
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
told = [sys.argv, dict(os.environ), fds, limits]
with open(sys.argv[2], "w") as file:
    json.dump(told, file)
os.write(5, b"x")
os.close(5)
os.read(3, 1), os.read(4, 1)
"""


class Place:
    """Where a test has its loggers, and what they keep."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def program(self, text: str) -> str:
        """Write a logger; return its path."""
        path = self.directory / "logger"
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
        path.chmod(0o700)
        return str(path)

    def uri(self, text: str, scheme: str = "binary") -> str:
        """Write a logger that is given our directory; return its URI."""
        return f"{scheme}://{self.program(text)}?{self.directory}"

    def kept(self, name: str = "out") -> str:
        """Return what was kept."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / name).read_text()
        return ""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place for loggers."""
    return Place(tmp_path)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a successor begin soon."""
    monkeypatch.setattr(logger, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """See that no descriptor and no child is left."""
    before = open_fds(), children()
    yield
    assert before == (open_fds(), children())


def children() -> list[str]:
    """Return our children, zombies among them."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def scene(scenario: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario with children of its own."""

    async def played() -> None:
        with Children() as children:
            scene = Scene(children)
            await scenario(scene)
            for child in scene.said:
                await child.wait()

    run(played())


class Scene:
    """One process, and its streams."""

    def __init__(self, children: Children) -> None:
        self.children = children
        self.said: list[Child] = []

    async def open(self, **streams: str) -> Stdio:
        """Open the streams, and have the loggers ready."""
        logged = Logged(self.children, "space", "e", "c")
        stdio = Stdio.open(**streams, logged=logged)  # type: ignore[arg-type]
        try:
            await stdio.prepare()
        except BaseException:
            stdio.close()
            await stdio.ended(0)
            raise
        return stdio

    def say(self, stdio: Stdio, script: str) -> Child:
        """Run a script on the streams."""
        argv = ["/bin/sh", "-c", script]
        child = self.children.spawn(argv, fds=stdio.child)
        self.said.append(child)
        stdio.close_child_ends()
        stdio.start()
        return child


def is_inherited(fd: int) -> bool:
    """Whether the tests were started with a descriptor that all programs get."""
    return os.get_inheritable(fd)


@pytest.mark.parametrize("scheme", ["binary", "binary-v2"])
def test_what_it_is_given(place: Place, scheme: str) -> None:
    """Arguments, two variables, six descriptors and the limits of before; no more."""
    uri = f"{scheme}://{place.program(TELLS)}?to={place.directory}/told&flag"

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri, stderr=uri)
        argv, env, fds, limits = json.loads(place.kept("told"))
        assert [f"{place.directory}/logger", "to", f"{place.directory}/told"] == argv[
            :3
        ]
        assert ["flag", ""] == argv[3:]
        env.pop("LC_CTYPE", None)  # Python's own doing
        assert {"CONTAINER_ID": "e", "CONTAINER_NAMESPACE": "space"} == env
        assert ["/dev/null"] * 3 == [fds.pop(name) for name in "012"]
        pipes = [fds.pop(name) for name in "345"]
        assert all(link.startswith("pipe:") for link in pipes)
        assert 3 == len(set(pipes))
        assert [] == [fd for fd in fds if not is_inherited(int(fd))]
        assert list(resource.getrlimit(resource.RLIMIT_NOFILE)) == limits
        scene.say(stdio, "exit 0")
        assert await stdio.drained(10)
        stdio.close()

    scene(scenario)


def test_megabytes_pass_unchanged(place: Place) -> None:
    """Each output on its own descriptor; all is kept when it was drained."""
    uri = place.uri(KEEPS)

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri, stderr=uri)
        await scene.say(stdio, "seq 1 200000; seq 5 >&2").wait()
        assert await stdio.drained(30)
        assert stdio.finished.done()
        stdio.close()

    scene(scenario)
    assert [str(n) for n in range(1, 200001)] == place.kept().split()
    assert "1\n2\n3\n4\n5\n" == place.kept("err")


@pytest.mark.parametrize(
    ("stream", "wanted"), [("stdout", ("out\n", "")), ("stderr", ("", "err\n"))]
)
def test_one_of_the_outputs(place: Place, stream: str, wanted: tuple[str, str]) -> None:
    """The other is at its end for the logger, and nowhere for the process."""
    uri = place.uri(KEEPS)

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(**{stream: uri})
        await scene.say(stdio, "echo out; echo err >&2").wait()
        assert await stdio.drained(10)
        stdio.close()

    scene(scenario)
    assert wanted == (place.kept(), place.kept("err"))


def test_it_may_take_its_time_in_the_end(place: Place) -> None:
    """Who drains waits for the logger's own end, not only for it to have read."""
    uri = place.uri(f"{KEEPS}; sleep 0.5; echo flushed >>$1/out")

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri, stderr=uri)
        await scene.say(stdio, "echo out").wait()
        assert await stdio.drained(10)
        stdio.close()

    scene(scenario)
    assert "out\nflushed\n" == place.kept()


@pytest.mark.parametrize(
    ("text", "scheme", "said"),
    [
        ("exit 3", "binary", "call ready: it ended with status 3"),
        ("kill -9 $$", "binary", "call ready: it ended with status 137"),
        ("exit 0", "binary-v2", "call ready: it ended with status 0"),
        ("exec 5>&-; exec sleep 60", "binary-v2", "ready: it closed the descriptor"),
        ("exec sleep 60", "binary", "did not call ready within 0 s"),
        ("trap '' TERM; exec sleep 60", "binary-v2", "not call ready within 0 s"),
        ("#!/no/such\n", "binary", "start binary process: fork/exec /.*: no such file"),
    ],
)
def test_one_that_is_not_ready(
    place: Place, monkeypatch: pytest.MonkeyPatch, text: str, scheme: str, said: str
) -> None:
    """It is a clear error, and nothing of it is left."""
    monkeypatch.setattr(logger, "READY_LIMIT_S", 0.4)
    uri = place.uri(text, scheme)

    async def scenario(scene: Scene) -> None:
        with pytest.raises(DunnageError, match=f"^failed to create init .*{said}"):
            await scene.open(stdout=uri, stderr=uri)

    scene(scenario)


def test_one_that_is_given_up_while_it_is_not_ready(place: Place) -> None:
    """Whoever is cancelled leaves nothing either."""
    uri = place.uri("touch $1/began; exec sleep 60")

    async def scenario(scene: Scene) -> None:
        opening = asyncio.ensure_future(scene.open(stdout=uri))
        await until((place.directory / "began").exists)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    scene(scenario)


def test_its_successor_reads_on(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """What a dead logger has not read is not lost, nor does the process notice."""
    uri = place.uri(
        "echo . >>$1/lives; echo >&5; read -r x <&3; echo $x >>$1/out\n"
        "[ $(wc -l <$1/lives) -gt 4 ] || exit 7; cat <&3 >>$1/out"
    )

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri)
        child = scene.say(stdio, "seq 1 20000")
        assert 0 == (await child.wait()).status
        assert await stdio.drained(30)
        stdio.close()

    scene(scenario)
    assert [str(n) for n in range(1, 20001)] == place.kept().split()
    texts = [record.getMessage() for record in caplog.records]
    assert 4 == len(texts)
    assert all("has ended with status 7 before the output" in text for text in texts)


def test_one_that_left_its_pipe_non_blocking(place: Place) -> None:
    """That is not its successor's trouble."""
    script = "import os; os.set_blocking(3, False); os.kill(os.getppid(), 9)"
    uri = place.uri(
        "exec 5>&-\nif [ -e $1/second ]; then\n"
        "cat <&3 >$1/out || touch $1/failed; exit\nfi\ntouch $1/second\n"
        f"{sys.executable} -IS -c '{script}'"
    )

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri)
        scene.say(
            stdio,
            f"until [ -e {place.directory}/out ]; do :; done; sleep 0.2; echo out",
        )
        await until(lambda: place.kept() == "out\n")
        assert await stdio.drained(30)
        stdio.close()

    scene(scenario)
    assert not (place.directory / "failed").exists()
    assert "out\n" == place.kept()


def test_one_that_always_dies_is_given_up(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The process goes on; what it says is dropped, and counted."""
    uri = place.uri("echo . >>$1/lives; echo >&5; exit 7")

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri, stderr=uri)
        child = scene.say(stdio, "head -c 1000000 /dev/zero; echo x >&2")
        assert 0 == (await child.wait()).status
        assert await stdio.drained(30)
        Held().keep(stdio, "c")

    scene(scenario)
    assert 7 == len(place.kept("lives").split())
    *deaths, given_up, lost = [record.getMessage() for record in caplog.records]
    # One that ends before we have seen it ready was not ready.
    assert 7 <= len(deaths) <= 13
    assert given_up.endswith("is given up: output is dropped")
    assert "1000002 bytes of its output were never read" == lost


def test_one_that_is_given_up_without_a_descriptor(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process waits until there is one, and goes on then."""
    monkeypatch.setattr(logger, "_DESCRIPTOR_PAUSE_S", 0.01)
    uri = place.uri("echo >&5; exit 7")
    failures = [OSError(errno.EMFILE, "none")] * 3
    really = NullSink.open

    def scarce() -> NullSink:
        if failures:
            raise failures.pop()
        return really()

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri)
        monkeypatch.setattr(NullSink, "open", scarce)
        child = scene.say(stdio, "head -c 1000000 /dev/zero")
        assert 0 == (await child.wait()).status
        assert await stdio.drained(30)
        assert 1000000 == stdio.lost_bytes
        stdio.close()

    scene(scenario)
    assert 3 == caplog.text.count("too many open files")


def test_given_up_and_closed_while_it_is_written(place: Place) -> None:
    """Closing it ends the dropping as well."""
    uri = place.uri("echo >&5; exit 7")

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri)
        child = scene.say(stdio, "yes")
        await until(lambda: stdio.lost_bytes > 1 << 20)
        stdio.close()
        assert 141 == (await child.wait()).status

    scene(scenario)


@pytest.mark.parametrize("ignored", ["", "trap '' TERM; "])
def test_one_that_does_not_end(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ignored: str,
) -> None:
    """It is waited for as long as is said; then it is ended beside all else."""
    monkeypatch.setattr(logger, "_TERM_LIMIT_S", 0.2)
    uri = place.uri(f"{ignored}exec 5>&-; cat <&3 >$1/out; exec sleep 60")

    async def scenario(scene: Scene) -> None:
        monkeypatch.setattr(Stdio.ended, "__defaults__", (0.2,))
        stdio = await scene.open(stdout=uri)
        scene.say(stdio, "echo out")
        began = time.monotonic()
        assert not await stdio.drained(0.6)
        assert time.monotonic() - began >= 0.6
        assert "out\n" == place.kept()
        held = Held()
        held.keep(stdio, "c")
        assert 1 == len(held)
        await held.drained(10)
        assert 0 == len(held)

    scene(scenario)
    signals = [record.getMessage().rpartition(" ")[2] for record in caplog.records]
    assert (["15", "9"] if ignored else ["15"]) == signals


def test_one_that_has_stalled_is_waited_for(place: Place) -> None:
    """output-held: what it has not read yet, it may still read after Delete."""
    uri = place.uri(
        "exec 5>&-; read x <$1/go; cat <&3 >$1/out; sleep 0.2; echo . >$1/e"
    )
    os.mkfifo(place.directory / "go")

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri)
        scene.say(stdio, "seq 1 10000")
        assert not await stdio.drained(0.1)
        held = Held()
        held.keep(stdio, "c")
        assert 1 == len(held)
        (place.directory / "go").write_text("\n")
        await held.drained(10)

    scene(scenario)
    assert [str(n) for n in range(1, 10001)] == place.kept().split()
    assert ".\n" == place.kept("e")


def test_who_lives_on_does_not_keep_it(place: Place) -> None:
    """A daemonised child of the process holds nobody up: the logger goes, too."""
    uri = place.uri(KEEPS)

    async def scenario(scene: Scene) -> None:
        stdio = await scene.open(stdout=uri, stderr=uri)
        script = f"sleep 60 & echo $! >{place.directory}/pid; echo out"
        child = scene.say(stdio, script)
        assert not await stdio.drained(10, idle_s=0.2)
        assert 0 == (await child.wait()).status
        held = Held()
        held.keep(stdio, "c")
        await held.drained(10)
        assert "out\n" == place.kept()

    try:
        scene(scenario)
    finally:
        os.kill(int(place.kept("pid")), 9)
