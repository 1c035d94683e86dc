"""``-t``: a container's terminal in ours, which the test makes."""

from __future__ import annotations

import hashlib
import os
import select
import termios

import pytest
from tests.cli.driver import LIMIT_S, Cli, assert_one_line, wait_until
from tests.seat import Seat, seated

pytestmark = pytest.mark.slow

PROMPT = b"/ # "


def use_a_shell(seat: Seat) -> None:
    """Do what one does in a shell: look at the size, change it, interrupt, leave."""
    seat.expect(PROMPT)
    seat.type(b"stty size\n")
    seat.expect(b"\r\n30 90\r\n")
    seat.expect(PROMPT)
    seat.resize(100, 40)
    seat.type(b"until test \"$(stty size)\" = '40 100'; do :; done; echo $TERM\n")
    seat.expect(b"\r\nxterm\r\n")
    seat.expect(PROMPT)
    seat.type(b"sh -c 'echo asleep; exec sleep 1000'\n")
    seat.expect(b"\r\nasleep\r\n")
    seat.type(b"\x03")
    seat.expect(PROMPT)
    seat.type(b"(exit 6)\n")
    seat.expect(PROMPT)
    seat.type(b"\x04")
    assert seat.ended() == 6


def test_run_a_shell(cli: Cli) -> None:
    """``run -it`` is a shell in our terminal; its status is ours."""
    with seated(cli.run_argv("--rm", "-it", "c", "--", "sh")) as seat:
        use_a_shell(seat)
    assert cli.leftovers("c") == []


def test_exec_a_shell(cli: Cli) -> None:
    """``exec -it`` is the same in a container that runs."""
    assert cli.run("-d", "c", "--", "sleep", "1000").returncode == 0
    with seated(cli.argv("exec", "-it", "c", "--", "sh")) as seat:
        use_a_shell(seat)
    assert cli("rm", "-f", "c").returncode == 0
    assert cli.leftovers("c") == []


def test_a_burst(cli: Cli) -> None:
    """20 MB arrive in our terminal to the last byte."""
    script = "stty -opost; yes 0123456789 | head -c 20000000; echo; echo end"
    got = bytearray()
    with seated(cli.run_argv("--rm", "-t", "c", "--", "sh", "-c", script)) as seat:
        attributes = termios.tcgetattr(seat.slave)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(seat.slave, termios.TCSANOW, attributes)
        while not got.endswith(b"\nend\n"):
            assert select.select([seat.master], [], [], LIMIT_S)[0], got[-100:]
            got += os.read(seat.master, 1 << 16)
        assert seat.process.wait(LIMIT_S) == 0
    wanted = (b"0123456789\n" * 2_000_000)[:20_000_000] + b"\nend\n"
    assert wanted == got


def test_a_burst_of_input(cli: Cli) -> None:
    """20 MB that are pasted into our terminal arrive in the container's, unchanged."""
    data = os.urandom(20_000_000)
    script = f"stty raw -echo; echo go; head -c {len(data)} | sha256sum"
    with seated(cli.run_argv("--rm", "-it", "c", "--", "sh", "-c", script)) as seat:
        seat.expect(b"go")
        # Before that a byte of it would be our own ^C.
        wait_until(lambda: termios.tcgetattr(seat.slave) != seat.mode, "raw mode")
        rest = memoryview(data)
        while rest:
            assert seat.process.poll() is None, len(rest)
            assert select.select([], [seat.master], [], LIMIT_S)[1], len(rest)
            rest = rest[os.write(seat.master, rest[:1000]) :]
        seat.expect(hashlib.sha256(data).hexdigest().encode())
        assert seat.ended() == 0
    assert cli.leftovers("c") == []


@pytest.mark.parametrize("command", ["/nope", "/etc/plain"])
def test_what_cannot_start(cli: Cli, command: str) -> None:
    """A failure is one line, and our terminal as it was."""
    with seated(cli.run_argv("--rm", "-it", "c", "--", command)) as seat:
        assert seat.ended() in {126, 127}
        seat.expect(b"dunnage: ")
    assert cli.leftovers("c") == []


def test_killed_from_elsewhere(cli: Cli) -> None:
    """When the container is killed our terminal is put back."""
    with seated(cli.run_argv("--rm", "-it", "c", "--", "sh")) as seat:
        seat.expect(PROMPT)
        wait_until(lambda: termios.tcgetattr(seat.slave) != seat.mode, "raw mode")
        assert cli("kill", "c", "KILL").returncode == 0
        assert seat.ended() == 137
    assert cli.leftovers("c") == []


def test_our_terminal_hangs_up(cli: Cli) -> None:
    """When our terminal goes, the container's does, and the command with it."""
    with seated(cli.run_argv("--rm", "-it", "c", "--", "sh")) as seat:
        seat.expect(PROMPT)
        os.close(seat.master)
        os.close(seat.slave)
        seat.master, seat.slave = os.openpty()  # for the closing
        seat.process.wait(LIMIT_S)
    assert cli.leftovers("c") == []


def test_input_that_is_no_terminal(cli: Cli) -> None:
    """It is refused: a terminal has no end of file to pass on."""
    ended = cli.run("--rm", "-it", "c", "--", "cat", stdin=b"text")
    assert ended.returncode == 125
    assert_one_line(ended)
    assert b"not a terminal" in ended.stderr
    assert cli.leftovers("c") == []


def test_output_that_is_no_terminal(cli: Cli) -> None:
    """``-t`` alone gives the container a terminal, and us what it says."""
    ended = cli.run("--rm", "-t", "c", "--", "sh", "-c", "tty; stty size")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith(b"\r\n24 80\r\n")
