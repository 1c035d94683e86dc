"""The ``-info`` action: who we are, and what the runtime of some options can do.

Of annotations there are those of the runtime's own features: its version, and that of
what it is built with.
There is none that says which mounts we make ourselves (containerd 2.2's
``runtime-allow-mounts``): the daemon prepares those that need it.
"""

from __future__ import annotations

import json

from google.protobuf.message import DecodeError

from dunnage import __version__
from dunnage.bootstrap import wire
from dunnage.descriptors import Any
from dunnage.drivers.runc import features
from dunnage.errors import InvalidArgument

from . import translate


def info(stdin: bytes) -> bytes:
    """Return the marshalled RuntimeInfo.

    Args:
        stdin: options of a runtime, packed; or nothing.

    Raises:
        InvalidArgument: the options make no sense.
        NotFound: they are of a type that is not known here, or there is no such
            runtime.
    """
    try:
        packed = Any.FromString(stdin)
    except DecodeError as error:
        raise InvalidArgument(f"options: {error}") from error
    found = features(translate.options(packed, ""))
    said = (found or {}).get("annotations")
    annotations = said if isinstance(said, dict) else {}
    return wire.render_info(
        "io.containerd.dunnage.v2",
        __version__,
        options=wire.Options(packed.type_url, packed.value),
        features=json.dumps(found).encode() if found is not None else None,
        annotations={k: v for k, v in annotations.items() if isinstance(v, str)},
    )
