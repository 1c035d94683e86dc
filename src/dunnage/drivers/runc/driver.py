"""Makes containers by runc or crun, with the options that somebody has given."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from dataclasses import dataclass

from dunnage.bootstrap import bundle
from dunnage.drivers.contract import Container, Creation, Driver
from dunnage.errors import InvalidArgument
from dunnage.host.cgroups import attaching, expect_systemd
from dunnage.host.procs import Children
from dunnage.host.stdio import Held
from dunnage.oci import Spec

from . import traces
from .command import Command
from .container import RuncContainer
from .options import Options


@dataclass(frozen=True, slots=True)
class RuncDriver(Driver):
    """Makes containers with the runtime that ``options`` name."""

    children: Children
    options: Options
    namespace: str
    held: Held
    """What its containers leave unread."""

    async def create(self, creation: Creation) -> Container:
        """Create a container; a failure leaves nothing behind."""
        attaching.expect()
        spec = _spec(creation.bundle)
        options = self.options.for_cgroup(spec.cgroups_path)
        if options.systemd_cgroup:
            expect_systemd()
        if creation.rootfs:
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{creation.bundle}/{bundle.ROOTFS}", 0o711)
        options.write(creation.bundle)
        cgroup = traces.write(creation.bundle, options, spec.cgroups_path)
        options = _with_owner(options, spec)
        command = Command(self.children, options, self.namespace, creation.id)
        container = RuncContainer(
            *(self.children, command, creation, self.held, cgroup),
            init_is_outlived=spec.shares_pid_namespace,
        )
        await container.create()
        return container


def _spec(directory: str) -> Spec:
    """Return what config.json says; nothing, where a runtime is to judge it.

    Raises:
        InvalidArgument: a runtime would wait for it, or never come to its end.
    """
    path = f"{directory}/{bundle.CONFIG}"
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InvalidArgument(f"{path} is not a regular file")
    try:
        return Spec.parse(bundle.read_config(directory))
    except (OSError, InvalidArgument):
        return Spec()


def _with_owner(options: Options, spec: Spec) -> Options:
    """Return options whose owner of the streams, if they name none, is the spec's.

    In a user namespace that is the container's root: who it does not know, nobody in it
    can open /dev/stdout of.
    """
    if options.io_uid or options.io_gid:
        return options
    return dataclasses.replace(options, io_uid=spec.root_uid, io_gid=spec.root_gid)
