"""One name in one directory, under which containerd finds a shim: ours, or what was.

A link, never a copy: the launcher finds its interpreter beside the file that it is, and
an upgrade of the package reaches a link by itself.

Owns: putting the link there, keeping what stood there, putting that back.
Must not know: who uses it.

Invariant (never-missing): at every moment there is a program at a path where there was
    one before: what stood there, or ours.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from dunnage.errors import FailedPrecondition

from .programs import OURS

_KEPT: Final = ".dunnage-kept"


@dataclass(frozen=True, slots=True)
class Place:
    """A path at which containerd looks for a shim."""

    path: str

    @property
    def kept(self) -> str:
        """Where what stood here is kept."""
        return self.path + _KEPT

    @property
    def directory(self) -> str:
        """The directory in which it is."""
        return os.path.dirname(self.path)

    def is_taken(self) -> bool:
        """Tell whether anything is here, be it ours or not."""
        return os.path.lexists(self.path)

    def has_kept(self) -> bool:
        """Tell whether something is kept."""
        return os.path.lexists(self.kept)

    def target(self) -> str | None:
        """Return to which launcher a link leads; None if none of ours stands here."""
        try:
            target = os.path.join(self.directory, os.readlink(self.path))
        except OSError:
            return None
        return target if os.path.basename(target) == OURS else None

    def leads_to(self, launcher: str) -> bool:
        """Tell whether this is that launcher, by whatever way."""
        return os.path.realpath(self.path) == os.path.realpath(launcher)

    def put(self, launcher: str) -> None:
        """Put a link here; what is not ours is kept, in the place of what was kept.

        Raises:
            FailedPrecondition: the directory is missing or read-only.
            OSError: as the kernel says.
        """
        with self._alone():
            if self.is_taken() and self.target() is None:
                if os.path.isdir(self.path):
                    raise FailedPrecondition(f"{self.path} is a directory")
                self._move_in(
                    lambda draft: os.link(self.path, draft, follow_symlinks=False),
                    self.kept,
                )
            self._move_in(lambda draft: os.symlink(launcher, draft), self.path)

    def restore(self) -> None:
        """Take our link away, and put back what was kept; there must be one of these.

        If another program stands here by now (an upgrade has put it), that stays.

        Raises:
            FailedPrecondition: the directory is read-only.
            OSError: as the kernel says.
        """
        with self._alone():
            is_theirs = self.is_taken() and self.target() is None
            if self.has_kept() and not is_theirs:
                os.rename(self.kept, self.path)
            else:
                os.unlink(self.kept if is_theirs else self.path)

    def _move_in(self, make: Callable[[str], None], path: str) -> None:
        draft = f"{path}.{os.getpid()}"
        try:
            make(draft)
            os.rename(draft, path)
        finally:
            # Of two names of one file, rename(2) takes none away.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the directory: of two at once, one would keep the other's link."""
        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FailedPrecondition(
                f"there is no directory {self.directory}"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            raise FailedPrecondition(
                f"{self.directory} is on a read-only file system"
            ) from error
        finally:
            os.close(fd)
