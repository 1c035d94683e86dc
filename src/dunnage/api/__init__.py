"""containerd's messages and services, generated from ``proto/`` and named as there.

The ``*_pb2`` modules are made by ``script/protos``; their classes live in the private
pool of `dunnage.descriptors`, whose ``Any``, ``Empty`` and ``Timestamp`` they take.
"""

from __future__ import annotations
