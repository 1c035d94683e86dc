"""A containerd for the tests of this folder, with our shim under both of its names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon import Containerd, image_archive, path_with_shim


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image archive of busybox."""
    path = tmp_path_factory.mktemp("image") / "busybox.tar"
    image_archive(path)
    return path


@pytest.fixture
def containerd(
    request: pytest.FixtureRequest, tmp_path: Path, image: Path
) -> Iterator[Containerd]:
    """A running containerd that finds our shim, also as containerd-shim-runc-v2.

    It is 1.6 where a test does not say otherwise.
    """
    path = path_with_shim(tmp_path / "bin")
    version = getattr(request, "param", "containerd-1.6")
    daemon = Containerd(tmp_path, version, path)
    try:
        daemon.start()
        daemon.ctr("images", "import", str(image))
        yield daemon
    finally:
        daemon.close()
