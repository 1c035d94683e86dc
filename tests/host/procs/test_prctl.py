"""What is asked of prctl(2)."""

from __future__ import annotations

import ctypes
import errno

import pytest

from dunnage.host.procs import prctl


class Kernel:
    """One that notes what it is asked, and refuses."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def prctl(self, option: int, *words: object) -> int:
        """Refuse as a kernel without core scheduling does."""
        self.asked = [option, *(getattr(word, "value", -1) for word in words)]
        ctypes.set_errno(errno.EINVAL)
        return -1


def test_core_scheduling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cookie of its own for our process group; a kernel that has none says so."""
    kernel = Kernel()
    monkeypatch.setattr(prctl, "_libc", kernel)
    with pytest.raises(OSError, match="Invalid argument") as raised:
        prctl.share_no_core()
    assert errno.EINVAL == raised.value.errno
    # PR_SCHED_CORE, to create one, for this process, in the scope of its group
    assert [62, 1, 0, 2, 0] == kernel.asked
