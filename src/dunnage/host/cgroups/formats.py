"""What the kernel writes into a cgroup's files; pure.

Whatever has an unexpected shape counts as absent: kernels differ.
"""

from __future__ import annotations


def flat(data: bytes) -> dict[str, int]:
    """Read lines of a name and a number."""
    values = {}
    for line in data.decode().splitlines():
        name, _, text = line.partition(" ")
        if text.isdecimal():
            values[name] = int(text)
    return values
