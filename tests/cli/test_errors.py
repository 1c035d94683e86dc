"""Failures have the exit status that Docker's have, and one line."""

from __future__ import annotations

import pytest

from dunnage.cli.errors import CannotStart, exit_status, one_line
from dunnage.errors import FailedPrecondition, NotFound

RUNC = "OCI runtime create failed: runc create failed: unable to start: exec: "


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (RUNC + '"x": executable file not found in $PATH', 127),
        (RUNC + '"/x": stat /x: no such file or directory', 127),
        (RUNC + '"/x/y": stat /x/y: not a directory', 127),
        (RUNC + '"/x": permission denied', 126),
        (RUNC + '"/x": is a directory', 126),
        ("OCI runtime exec failed: open executable: Permission denied", 126),
        ("OCI runtime create failed: container's cgroup is not empty", 125),
        ("failed to mount rootfs component: no such file or directory", 125),
    ],
)
def test_cannot_start(text: str, status: int) -> None:
    """Only what the OCI runtime says of the command is the command's fault."""
    assert exit_status(CannotStart(text)) == status


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NotFound("task c"), "task c: not found"),
        (FailedPrecondition("c is running"), "c is running"),
        (CannotStart("one\n  two\n"), "one two"),
        (OSError(28, "No space left on device", "/x"), "/x: No space left on device"),
        (PermissionError(13, "Permission denied"), "Permission denied (are you root?)"),
        (KeyError("x"), "internal error: KeyError: 'x'"),
    ],
)
def test_one_line(error: Exception, text: str) -> None:
    """An error is one line, with what it is about, and 125 if it is ours."""
    assert one_line(error) == text
    assert exit_status(error) == 125
