"""Options as users write them into containerd's configuration: TOML.

Kubernetes and Docker hand the whole table, or the path of a file, to a runtime whose
name they do not know.
The keys are those of containerd's options for runc: ``BinaryName``, ``IoUid``, and
whatever else `Options` has.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from typing import Any, Final

from dunnage.bootstrap import bundle
from dunnage.errors import InvalidArgument

from .options import Options

_FIELDS: Final[dict[str, tuple[str, type]]] = {
    "".join(map(str.capitalize, f.name.split("_"))): (f.name, type(f.default))
    for f in dataclasses.fields(Options)
}
_CLIENTS: Final = frozenset({"TypeUrl", "ConfigPath"})
"""In the same table, and for the client that passes it."""
_WORDS: Final = {bool: "true or false", int: "a number", str: "a string"}
_UINT32_END: Final = 1 << 32


def parse(text: bytes, source: str) -> Options:
    """Return the options that a table holds.

    Args:
        text: the table.
        source: where it is from, for errors.

    Raises:
        InvalidArgument: it is no TOML, or a key or its value makes no sense.
    """
    try:
        # Never guessing the encoding, which might import a codec.
        table = tomllib.loads(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{source}: {error}") from error
    fields = {}
    for key, value in table.items():
        if key in _CLIENTS:
            continue
        if key not in _FIELDS:
            known = ", ".join(sorted(_FIELDS))
            raise InvalidArgument(f"{source}: unknown option {key} (known: {known})")
        name, kind = _FIELDS[key]
        fields[name] = _checked(value, kind, f"{source}: {key}")
    return Options(**fields)


def _checked(value: Any, kind: type, what: str) -> Any:
    # Docker's options come from JSON, by a library that knows no whole numbers.
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    is_beyond = isinstance(value, int) and not 0 <= value < _UINT32_END
    if type(value) is not kind or is_beyond:
        raise InvalidArgument(f"{what} is to be {_WORDS[kind]}")
    return value


def read(path: str) -> Options:
    """Return the options that a file holds.

    Raises:
        InvalidArgument: it cannot be read, or as `parse`.
    """
    if not os.path.isabs(path):
        raise InvalidArgument(f"config_path {path!r} is not an absolute path")
    try:
        text = bundle.read_whole(path)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise InvalidArgument(f"config_path {path}: {reason}") from error
    except ValueError as error:  # a NUL
        raise InvalidArgument(f"config_path {path!r}: {error}") from error
    return parse(text, path)
