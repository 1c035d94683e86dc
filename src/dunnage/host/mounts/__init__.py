"""Mounts: the root filesystem of a container, made and undone."""

from __future__ import annotations

from .apart import mount_all_apart, unmount_recursive_apart
from .rootfs import Mount, mount_all
from .unmount import is_mount_point, unmount_recursive

__all__ = [
    "Mount",
    "is_mount_point",
    "mount_all",
    "mount_all_apart",
    "unmount_recursive",
    "unmount_recursive_apart",
]
