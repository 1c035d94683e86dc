"""Starting programs, in both ways: by vfork in C, and by a fork in Python."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from dunnage.host import native
from dunnage.host.procs import run_to_end, spawn

SH = "/bin/sh"
needs_library = pytest.mark.skipif(
    native.library is None, reason="built without a compiler"
)


@pytest.fixture(
    params=[pytest.param("vfork", marks=needs_library), "fork"], autouse=True
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the two ways, for each test."""
    if request.param == "fork":
        monkeypatch.setattr(native, "library", None)
    return str(request.param)


@contextlib.contextmanager
def pipes() -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Yield where to read what a program says, and the fds for it."""
    said, out = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield said, (null, out, out)
    finally:
        for fd in (said, out, null):
            os.close(fd)


def output(
    argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None
) -> str:
    """Run a program that says less than a pipe holds; return what it said."""
    with pipes() as (said, fds):
        pid = spawn(argv, fds=fds, env=env, cwd=cwd)
        assert os.waitpid(pid, 0) == (pid, 0)
        return os.fsdecode(os.read(said, 1 << 16))


def test_arguments_environment_and_directory(tmp_path: Path) -> None:
    """They are as given, in any encoding."""
    odd = tmp_path / "\udcff né"
    odd.mkdir()
    script = 'pwd; echo "$1|$X"'
    said = output([SH, "-c", script, SH, " a\n"], {"X": "y=\udcfe"}, str(odd))
    assert f"{odd}\n a\n|y=\udcfe\n" == said


def test_without_an_environment_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed since the start counts, and so does our directory."""
    monkeypatch.setenv("DUNNAGE_TEST", "x")
    monkeypatch.chdir("/usr")
    assert "x /usr\n" == output([SH, "-c", "echo $DUNNAGE_TEST $PWD"])


def test_a_program_is_looked_for_in_path(tmp_path: Path) -> None:
    """What is absent, or not to be run, is passed over; a directory may be relative."""
    for name, mode in (("a", 0o600), ("b", 0o700), ("c", 0o700)):
        (tmp_path / name).mkdir()
        program = tmp_path / name / "program"
        program.write_text(f"#!{SH}\necho {name}\n")
        program.chmod(mode)
    path = f"/nonexistent:/dev/null:{tmp_path}/a:b:c"
    assert "b\n" == output(["program"], {"PATH": path}, str(tmp_path))
    assert "x\n" == output(["echo", "x"], {})  # there is a PATH without a PATH


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/dev/null:/nonexistent", FileNotFoundError),
        ("{0}:/nonexistent", PermissionError),
    ],
)
def test_a_program_that_path_does_not_have(
    path: str, error: type[OSError], tmp_path: Path
) -> None:
    """The error names the program, and tells a file that cannot be run from none."""
    (tmp_path / "program").write_text("no program")
    with pipes() as (_, fds), pytest.raises(error) as raised:
        spawn(["program"], fds=fds, env={"PATH": path.format(tmp_path)})
    assert raised.value.filename == "program"


def test_failures_name_the_program_and_leave_no_child(tmp_path: Path) -> None:
    """Whatever step fails: no program, no directory, a NUL, a format, a stale fd."""
    odd = tmp_path / "odd"
    odd.write_text("neither a script nor a program")
    odd.chmod(0o700)
    with pipes() as (_, fds):
        for argv, cwd, text in (
            ([f"{tmp_path}/none"], None, "No such file"),
            ([SH], f"{tmp_path}/none", "No such file"),
            ([SH, "a\0b"], None, "Invalid argument"),
            ([SH], "/\0", "Invalid argument"),
            ([str(odd)], None, "Exec format error"),
        ):
            with pytest.raises(OSError, match=text) as raised:
                spawn(argv, fds=fds, cwd=cwd)
            assert raised.value.filename == argv[0]
        with pytest.raises(OSError, match="Bad file descriptor"):
            spawn([SH], fds=(fds[0], fds[1], 1 << 20))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_nothing_of_ours_is_inherited() -> None:
    """No fd, no ignored, blocked or handled signal of ours, no raised limit."""
    script = (
        "ls /proc/self/fd; ulimit -Sn; "
        "grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 500)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        *fds, limit, blocked, ignoring = output([SH, "-c", script]).split()
    finally:
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, ignored)
        signal.signal(signal.SIGUSR1, handler)
    assert str(fd) not in fds
    assert (str(soft), 0, 0) == (limit, int(blocked, 16), int(ignoring, 16))


def test_the_mask_of_signals_is_kept() -> None:
    """Ours stays as it was, also after a failure, and the child has the same."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        said = output(["/bin/grep", "SigBlk", "/proc/self/status"])
        with pipes() as (_, fds), pytest.raises(FileNotFoundError):
            spawn(["/nonexistent"], fds=fds)
        assert {*before, signal.SIGUSR2} == signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert int(said.split()[1], 16) >> (signal.SIGUSR2 - 1) & 1


def test_a_signal_at_the_wrong_moment_meets_our_handler_once() -> None:
    """Those that come while a program is started are heard by us, not by the child."""
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    script = f"i=300; while [ $((i-=1)) -gt 0 ]; do kill -USR1 {os.getpid()}; done"
    storm = subprocess.Popen([SH, "-c", script])
    try:
        with pipes() as (_, fds):
            while storm.poll() is None:
                pid = spawn(["/bin/true"], fds=fds)
                assert os.waitpid(pid, 0) == (pid, 0)
    finally:
        storm.wait()
        signal.signal(signal.SIGUSR1, before)
    assert heard


def in_a_process_that_ends(way: str, spawning: str) -> bytes:
    """Return what was said on a process's stdout until nobody had it any more."""
    script = (
        "import os, sys\n"
        "from dunnage.host import native\n"
        "from dunnage.host.procs import spawn\n"
        f"if {way!r} == 'fork': native.library = None\n"
        "null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)\n"
        f"{spawning}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=30, check=True
    )
    return done.stdout


def test_it_dies_with_us(way: str) -> None:
    """The program is killed when its parent ends."""
    spawning = "spawn(['sleep', '60'], fds=(null, os.dup(1), null))"
    assert in_a_process_that_ends(way, spawning) == b""


def test_it_outlives_us(way: str) -> None:
    """Unless it is not to be: then it ends by itself."""
    script = "while grep -q ^PPid:.$0 /proc/$$/status; do sleep 0.01; done; echo done"
    spawning = (
        f"spawn(['{SH}', '-c', {script!r}, str(os.getpid())],"
        " fds=(null, os.dup(1), null), outlives=True)"
    )
    assert in_a_process_that_ends(way, spawning) == b"done\n"


def test_more_than_three(way: str) -> None:
    """Each is where it was asked for, also one that was in another's place."""
    places = "for n in range(3, 6): os.dup2(os.memfd_create(f'was{n}'), n)"
    script = "for n in 3 4 5; do readlink /proc/self/fd/$n; done; ls /proc/self/fd"
    spawning = (
        f"{places}\nnull = os.dup(null)\n"
        f"spawn(['{SH}', '-c', {script!r}],"
        " fds=(null, os.dup(1), null, 5, 3, 4), env=os.environ)\nos.wait()"
    )
    said = in_a_process_that_ends(way, f"import fcntl\n{spawning}").decode().split()
    assert [f"/memfd:was{n}" for n in (5, 3, 4)] == said[:6:2]
    # The last is that of the listing.
    assert list("012345") == said[6:-1]


def test_run_to_end_collects() -> None:
    """Its status, and what it says on both."""
    assert (3, b"ab") == run_to_end([SH, "-c", "printf a; printf b >&2; exit 3"])
    script = "printf a; printf b >&2"
    assert (0, b"a") == run_to_end([SH, "-c", script], stdout_only=True)


def test_run_to_end_waits_for_nobody_else() -> None:
    """What a program leaves behind may go on, with the output in its hands."""
    status, said = run_to_end([SH, "-c", "sleep 1000 & printf $!"])
    os.kill(int(said), signal.SIGKILL)
    assert 0 == status
