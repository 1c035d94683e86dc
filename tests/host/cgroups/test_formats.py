"""The kernel's formats, as it writes them, and what is no such thing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dunnage.host.cgroups import formats

NET_DEV = b"""\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\
 drop fifo colls carrier compressed
    lo:      10       2    0    0    0     0          0         0       10       2    0\
    0    0     0       0          0
eth0.1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
"""


def test_numbers() -> None:
    """Alone, in a row, and none at all."""
    assert 7 == formats.number(b"7\n")
    assert (1 << 64) - 1 == formats.number(b"max\n")
    assert formats.number(b"") is None
    assert formats.number(b"-1\n") is None
    assert [1, 20] == formats.numbers(b"1 20 \n")


def test_flat() -> None:
    """A name and a number; what is neither is passed over."""
    data = b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\nodd\nb x\n"
    expected = {"oom_kill_disable": 0, "under_oom": 0, "oom_kill": 3}
    assert expected == formats.flat(data)
    assert {"user": 20_000_000, "system": 0} == formats.ticks_ns(b"user 2\nsystem 0\n")


def test_nested() -> None:
    """Pairs after a name; a device without any may stand before another."""
    data = b"8:16 8:0 rbytes=1 wios=2\n9:0\nmlx5_0 hca_handle=2 hca_object=max\n"
    assert [
        ("8:0", {"rbytes": 1, "wios": 2}),
        ("mlx5_0", {"hca_handle": 2, "hca_object": formats.UNLIMITED}),
    ] == formats.nested(data)


def test_pressure() -> None:
    """Parts of hundred, and microseconds."""
    data = b"some avg10=1.25 avg60=0.00 avg300=3 total=44\nfull avg10=0.00 total=5\n"
    assert {
        "some": {"avg10": 1.25, "avg60": 0.0, "avg300": 3, "total": 44},
        "full": {"avg10": 0.0, "total": 5},
    } == formats.pressure(data)


def test_block() -> None:
    """What was done may be left out; the sum of all devices is."""
    data = b"8:0 Read 4096\n8:0 Total 4096\n259:3 5\nTotal 4096\n\n"
    assert [
        (8, 0, "Read", 4096),
        (8, 0, "Total", 4096),
        (259, 3, "", 5),
    ] == formats.block(data)


def test_partitions() -> None:
    """Names by numbers, below a heading."""
    data = b"major minor  #blocks  name\n\n   8        0   10485760 sda\n"
    assert {(8, 0): "sda"} == formats.partitions(data)


def test_interfaces() -> None:
    """Eight counters of each, below two headings."""
    lo, other = formats.interfaces(NET_DEV)
    assert "lo" == lo["name"]
    received = {"rx_bytes": 1, "rx_packets": 2, "rx_errors": 3, "rx_dropped": 4}
    sent = {"tx_bytes": 9, "tx_packets": 10, "tx_errors": 11, "tx_dropped": 12}
    assert {"name": "eth0.1", **received, **sent} == other


@given(st.text(alphabet="a8:= .\nmax1\xe9", max_size=60))
def test_nothing_raises(text: str) -> None:
    """Whatever a kernel may write."""
    data = text.encode("latin-1")
    for parse in (
        *(formats.number, formats.numbers, formats.flat, formats.nested),
        *(formats.pressure, formats.block, formats.partitions, formats.ticks_ns),
        formats.interfaces,
    ):
        parse(data)
