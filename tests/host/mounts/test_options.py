"""The words of a mount's options."""

from __future__ import annotations

import pytest

from dunnage.errors import DunnageError, InvalidArgument
from dunnage.host.mounts.options import (
    MountFlag,
    Special,
    parse_options,
    take_special,
)

# The numbers are the kernel's, written down a second time.
SET_BY = {
    "bind": 4096,
    "defaults": 0,
    "dirsync": 128,
    "mand": 64,
    "noatime": 1024,
    "nodev": 4,
    "nodiratime": 2048,
    "noexec": 8,
    "nosuid": 2,
    "rbind": 4096 | 16384,
    "relatime": 1 << 21,
    "remount": 32,
    "ro": 1,
    "strictatime": 1 << 24,
    "sync": 16,
}
CLEARED_BY = {
    "async": "sync",
    "atime": "noatime",
    "dev": "nodev",
    "diratime": "nodiratime",
    "exec": "noexec",
    "nomand": "mand",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
    "rw": "ro",
    "suid": "nosuid",
}


@pytest.mark.parametrize(("word", "number"), SET_BY.items())
def test_a_word_sets_its_flag(word: str, number: int) -> None:
    """Each word of the table means the kernel's flag, and no data."""
    assert (number, "") == parse_options([word])


@pytest.mark.parametrize(("word", "undone"), CLEARED_BY.items())
def test_a_word_clears_its_flag(word: str, undone: str) -> None:
    """Each opposite clears the flag of its word, and only that."""
    assert (MountFlag.DIRSYNC, "") == parse_options(["dirsync", undone, word])


def test_the_last_word_wins() -> None:
    """A flag that was cleared can be set again."""
    assert parse_options(["ro", "rw", "ro"]) == (1, "")


def test_the_rest_is_data() -> None:
    """Words of the file system go into its data, in their order."""
    words = ["lowerdir=/a:/b", "ro", "upperdir=/u", "workdir=/w", "rprivate"]
    wanted = (1, "lowerdir=/a:/b,upperdir=/u,workdir=/w,rprivate")
    assert wanted == parse_options(words)


def test_data_has_the_length_of_a_page_at_most() -> None:
    """What the kernel would cut is refused, not cut."""
    assert parse_options(["x" * 4095])[1] == "x" * 4095
    for word in ("x" * 4096, "é" * 2048):
        with pytest.raises(DunnageError, match=r"^mount options is too long$"):
            parse_options([word])


def test_what_is_the_daemon_s_own_is_refused() -> None:
    """It should have done what such a word says before it came to us."""
    word = "X-containerd.mkfs.fs=ext4"
    with pytest.raises(InvalidArgument, match=f"^mount option {word}$"):
        parse_options(["ro", word])


def test_what_is_more_than_a_call() -> None:
    """A loop device and maps of owners are taken out; the rest stays in its order."""
    words = ["ro", "uidmap=0:1:2,5:6:7", "loop", "gidmap=0:1:2", "x=loop", "uidmap"]
    special = take_special(words)
    rest = ("ro", "x=loop", "uidmap")
    assert special == Special(
        rest, is_loop=True, uid_map="0:1:2,5:6:7", gid_map="0:1:2"
    )
    assert special.is_any
    assert special.is_mapped
    assert take_special(["loop"]).is_any
    assert not take_special(["loop"]).is_mapped
    assert not take_special(["ro", "looping"]).is_any
