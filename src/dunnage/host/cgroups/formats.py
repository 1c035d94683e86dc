"""What the kernel writes into the files that tell of resources; pure.

Whatever has an unexpected shape counts as absent: kernels differ.
"""

from __future__ import annotations

from typing import Final, NamedTuple

UNLIMITED: Final = (1 << 64) - 1
_WORD_FOR_UNLIMITED: Final = "max"
_TICKS_NS: Final = 10_000_000
"""The kernel tells of ticks in hundredths of a second, whatever it counts in."""


class BlockEntry(NamedTuple):
    """A line of v1's ``blkio.*``."""

    major: int
    minor: int
    op: str
    value: int


def number(data: bytes) -> int | None:
    """Read a number alone, or ``max``."""
    return _number(_text(data).strip())


def numbers(data: bytes) -> list[int]:
    """Read numbers in a row."""
    return [n for word in _text(data).split() if (n := _number(word)) is not None]


def flat(data: bytes) -> dict[str, int]:
    """Read lines of a name and a number."""
    values = {}
    for line in _lines(data):
        name, _, text = line.partition(" ")
        if (value := _number(text)) is not None:
            values[name] = value
    return values


def nested(data: bytes) -> list[tuple[str, dict[str, int]]]:
    """Read lines of a name, and then of names with numbers, as ``rbytes=1``.

    A device without numbers is on the next one's line in ``io.stat``.
    """
    entries = []
    for line in _lines(data):
        name, values = "", {}
        for word in line.split():
            key, is_pair, text = word.partition("=")
            if not is_pair:
                name = word
            elif (value := _number(text)) is not None:
                values[key] = value
        if name and values:
            entries.append((name, values))
    return entries


def pressure(data: bytes) -> dict[str, dict[str, float]]:
    """Read how long all, or some, have waited."""
    waits: dict[str, dict[str, float]] = {}
    for line in _lines(data):
        name, _, pairs = line.partition(" ")
        values: dict[str, float] = {}
        for pair in pairs.split():
            key, _, text = pair.partition("=")
            if text.isdecimal():
                values[key] = int(text)
            elif text.replace(".", "", 1).isdecimal():
                values[key] = float(text)
        waits[name] = values
    return waits


def block(data: bytes) -> list[BlockEntry]:
    """Read lines of a device, perhaps what was done, and a number; but for the sum."""
    entries = []
    for line in _lines(data):
        device, _, rest = line.partition(" ")
        op, _, text = rest.rpartition(" ")
        if (at := device_number(device)) and text.isdecimal():
            entries.append(BlockEntry(*at, op, int(text)))
    return entries


def device_number(text: str) -> tuple[int, int] | None:
    """Read a device's ``major:minor``."""
    major, _, minor = text.partition(":")
    if major.isdecimal() and minor.isdecimal():
        return int(major), int(minor)
    return None


def partitions(data: bytes) -> dict[tuple[int, int], str]:
    """Read /proc/partitions: the names of devices by their numbers."""
    rows = (line.split() for line in _lines(data))
    return {
        (int(row[0]), int(row[1])): row[3]
        for row in rows
        if len(row) == 4 and row[0].isdecimal() and row[1].isdecimal()
    }


def ticks_ns(data: bytes) -> dict[str, int]:
    """Read lines of a name and of ticks; return nanoseconds."""
    return {name: ticks * _TICKS_NS for name, ticks in flat(data).items()}


_INTERFACE: Final = (
    *("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "", "", "", ""),
    *("tx_bytes", "tx_packets", "tx_errors", "tx_dropped"),
)


def interfaces(data: bytes) -> list[dict[str, int | str]]:
    """Read /proc/PID/net/dev."""
    found = []
    for line in _lines(data):
        name, _, rest = line.rpartition(":")
        if name and len(values := numbers(rest.encode())) >= len(_INTERFACE):
            entry: dict[str, int | str] = {"name": name.strip()}
            named = zip(_INTERFACE, values, strict=False)
            entry.update({key: n for key, n in named if key})
            found.append(entry)
    return found


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _lines(data: bytes) -> list[str]:
    return _text(data).splitlines()


def _number(text: str) -> int | None:
    if text == _WORD_FOR_UNLIMITED:
        return UNLIMITED
    return int(text) if text.isdecimal() else None
