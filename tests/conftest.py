"""What holds for every test: what it starts can be interrupted, and ends."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from tests.compatibility import Recorder
from tests.machine import end_forkservers

from dunnage.bootstrap import warm


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer to write a page of what works under which peer."""
    text = "write what works under which peer, as a page"
    parser.addoption("--compatibility", metavar="FILE", type=Path, help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Take SIGINT and SIGQUIT back, and have fork servers of our own.

    A shell ignores them for what it runs in the background, and that is inherited.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    directory = tempfile.mkdtemp(prefix="dunnage-forkserver-")
    os.environ[warm.DIRECTORY_VARIABLE] = directory
    if path := config.getoption("--compatibility"):
        config.pluginmanager.register(Recorder(path))


def pytest_unconfigure() -> None:
    """End our fork servers."""
    directory = Path(os.environ.pop(warm.DIRECTORY_VARIABLE))
    end_forkservers(directory)
    shutil.rmtree(directory)
