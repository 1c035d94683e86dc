"""`ctr run --rm` through real containerds, one for each shim: it is its stock shim."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.peers.daemon import IMAGE, Containerd, image_archive

from .driver import Failed, alarm
from .site import Site
from .subjects import PEERS, Subject

VERSIONS: Final = {"ctr-1.6": "containerd-1.6", "ctr-2.3": "containerd-2.3"}
"""The daemons, by the names of their rows."""


def absent(version: str) -> str:
    """Return why there is no such daemon; empty if there is one."""
    there = (PEERS / version / "usr/bin/containerd").exists()
    return "" if there else f"script/peers {version} has not brought it"


class Ctr:
    """One containerd whose shim, under the stock name, is the subject."""

    def __init__(self, site: Site, subject: Subject, version: str, image: Path) -> None:
        self._runtime = site.runtime
        self._count = 0
        directory = site.directory / f"{version}-{subject.name}"
        programs = directory / "bin"
        programs.mkdir(parents=True)
        (programs / "containerd-shim-runc-v2").symlink_to(subject.binary)
        self._daemon = Containerd(
            directory,
            version,
            f"{programs}:{os.environ['PATH']}",
            subject.environment,
        )
        self._log = directory / "ctr.log"
        try:
            self._daemon.start()
            self._daemon.ctr("images", "import", str(image))
        except BaseException:
            self.close()
            raise

    def run(self) -> float:
        """Run a container of `true`; return how long ctr took (ms)."""
        self._count += 1
        argv = self._daemon.command(
            *("run", "--rm", "--runc-binary", self._runtime),
            *(IMAGE, f"c{self._count}", "true"),
        )
        # With a timeout of subprocess' own it would look every 50 ms only.
        with self._log.open("wb") as log, alarm():
            began = time.perf_counter()
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
            ended = time.perf_counter()
        if done.returncode:
            raise Failed(f"ctr run: {self._log.read_text(errors='replace')[-400:]}")
        return (ended - began) * 1e3

    def close(self) -> None:
        """End the daemon, and what runs under it."""
        self._daemon.close()


def image(site: Site) -> Path:
    """Make the archive of an image."""
    path = site.directory / "image.tar"
    image_archive(path)
    return path
