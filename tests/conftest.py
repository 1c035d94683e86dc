"""What holds for every test: what it starts can be interrupted."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Take SIGINT and SIGQUIT back, so that what tests start can be interrupted.

    A shell ignores them for what it runs in the background, and that is inherited.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
