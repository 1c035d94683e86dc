"""What a runtime says that it can do, by its own command ``features``."""

from __future__ import annotations

import json
from typing import Any

from dunnage.errors import NotFound
from dunnage.host.procs import run_to_end

from . import texts
from .options import Options


def features(options: Options) -> dict[str, Any] | None:
    """Return what the runtime says; None if it has no such command. It blocks.

    Raises:
        NotFound: there is no such runtime, or it cannot be started.
    """
    program = options.program
    try:
        status, said = run_to_end([program, "features"], stdout_only=True)
    except OSError as error:
        raise NotFound(texts.unstartable(error, program)) from error
    try:
        found = json.loads(str(said, "utf-8")) if status == 0 else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
