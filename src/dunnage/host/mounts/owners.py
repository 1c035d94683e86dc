"""Mounts that show other owners than the disk has: id-mapped.

Owns: a user namespace for the map, and how a mount gets it.
"""

from __future__ import annotations

import os
from typing import Final

from dunnage.errors import InvalidArgument

from . import syscalls

_FIELDS: Final = 3


def open_user_namespace(uid_map: str, gid_map: str) -> int:
    """Return an fd of a user namespace with these maps, in which nobody is.

    Args:
        uid_map: ``disk:here:size``, more of them after commas.
        gid_map: likewise.

    Raises:
        InvalidArgument: a map makes no sense.
        OSError: the kernel refuses.
    """
    said = {"uid_map": uid_map, "gid_map": gid_map}
    maps = {name: _lines(name, text) for name, text in said.items()}
    is_there, told = os.pipe2(os.O_CLOEXEC)
    waits, ends = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ends)
            syscalls.enter_user_namespace()
            os.write(told, b"\0")
            os.read(waits, 1)
        except OSError as error:
            os.write(told, bytes([error.errno or 0]))
        finally:
            os._exit(0)
    try:
        os.close(told)
        os.close(waits)
        code = os.read(is_there, 1)
        if code != b"\0":
            number = code[0] if code else 0
            raise OSError(number, os.strerror(number))
        for name, lines in maps.items():
            with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
                file.write(lines)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(is_there)
        os.close(ends)
        os.waitpid(pid, 0)


def _lines(name: str, said: str) -> bytes:
    """Return a map as /proc takes it, in one write."""
    lines = []
    for part in said.split(","):
        numbers = part.split(":")
        # Other digits than these are not the kernel's.
        if len(numbers) != _FIELDS or not all(
            n.isascii() and n.isdigit() for n in numbers
        ):
            raise InvalidArgument(f"{name} of a mount: {said!r}")
        lines.append(" ".join(numbers) + "\n")
    return "".join(lines).encode()


def mount_again(target: str, namespace: int, *, recursive: bool) -> None:
    """Mount what is at ``target`` once more, on top of itself, with other owners.

    Raises:
        OSError: the kernel, or the file system, cannot.
    """
    _mount(target, target, namespace, recursive=recursive)


def mount_read_only(directory: str, target: str, namespace: int) -> None:
    """Mount a directory with other owners, to be read.

    Raises:
        OSError: the kernel, or the file system, cannot.
    """
    _mount(directory, target, namespace, read_only=True)


def _mount(
    path: str,
    target: str,
    namespace: int,
    *,
    recursive: bool = False,
    read_only: bool = False,
) -> None:
    tree = syscalls.copy_tree(path, recursive=recursive)
    try:
        syscalls.map_owners(tree, namespace, recursive=recursive, read_only=read_only)
        syscalls.attach_tree(tree, target)
    finally:
        os.close(tree)
