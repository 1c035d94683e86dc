"""Terminals under a real containerd: ``ctr`` in a terminal that the test makes."""

from __future__ import annotations

import select
from os import read

import pytest
from tests.seat import LIMIT_S, Seat, seated

from .daemon import IMAGE, Containerd
from .test_containerd import EACH_WAY, nothing_is_left

pytestmark = pytest.mark.slow

PROMPT = b"/ # "


def interrupt_and_leave(seat: Seat) -> None:
    """Interrupt a command, look at the size, leave with ^D."""
    seat.type(b"sh -c 'echo asleep; exec sleep 1000'\n")
    seat.expect(b"\r\nasleep\r\n")
    seat.type(b"\x03")
    seat.expect(PROMPT)
    seat.resize(101, 41)
    seat.type(b"until test \"$(stty size)\" = '41 101'; do :; done; echo $((6*7))\n")
    seat.expect(b"\r\n42\r\n")
    seat.expect(PROMPT)
    seat.type(b"(exit 6)\n")
    seat.expect(PROMPT)
    seat.type(b"\x04")
    assert seat.process.wait(LIMIT_S) == 6


@EACH_WAY
@pytest.mark.feature("terminals")
def test_run_and_exec_a_shell(containerd: Containerd, way: list[str]) -> None:
    """``ctr run -t`` and ``ctr task exec -t`` are shells in our terminal."""
    run = containerd.command("run", "--rm", "-t", *way, IMAGE, "c", "sh")
    with seated(run) as seat:
        seat.expect(PROMPT)
        exec_ = containerd.command("task", "exec", "-t", "--exec-id", "e", "c", "sh")
        with seated(exec_) as second:
            second.expect(PROMPT)
            interrupt_and_leave(second)
        interrupt_and_leave(seat)
    nothing_is_left(containerd)


@EACH_WAY
@pytest.mark.feature("detach and attach")
def test_detach_and_attach(containerd: Containerd, way: list[str]) -> None:
    """A client that is killed takes nothing with it; another one goes on."""
    with seated(containerd.command("run", "-t", *way, IMAGE, "c", "sh")) as seat:
        seat.expect(PROMPT)
        seat.type(b"x=kept; echo $x\n")
        seat.expect(b"\r\nkept\r\n")
    with seated(containerd.command("task", "attach", "c")) as seat:
        seat.type(b"echo still $x\n")
        seat.expect(b"still kept\r\n")
        seat.expect(PROMPT)
        seat.type(b"exit 6\n")
        assert seat.process.wait(LIMIT_S) == 6
    containerd.ctr("task", "delete", "c", check=False)  # attach has deleted it already
    containerd.ctr("container", "delete", "c")
    nothing_is_left(containerd)


@EACH_WAY
@pytest.mark.feature("terminals")
def test_a_burst(containerd: Containerd, way: list[str]) -> None:
    """20 MB come through a container's terminal and ctr's to the last byte."""
    script = "stty -opost; yes 0123456789 | head -c 20000000; echo; echo end"
    run = ["run", "--rm", "-t", *way, IMAGE, "c", "sh", "-c", script]
    got = bytearray()
    with seated(containerd.command(*run)) as seat:
        while not got.endswith(b"\nend\n"):
            assert select.select([seat.master], [], [], LIMIT_S)[0], got[-100:]
            # The carriage returns are our own terminal's.
            got += read(seat.master, 1 << 16).replace(b"\r", b"")
        assert seat.process.wait(LIMIT_S) == 0
    wanted = b"0123456789\n" * (20_000_000 // 11 + 1)
    warned = got.index(b"0123456789\n")  # by a ctr of today, about cgroup v1
    assert wanted[:20_000_000] + b"\nend\n" == got[warned:]
    nothing_is_left(containerd)
