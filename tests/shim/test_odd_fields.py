"""Every field of every request, one after the other, with what makes no sense in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dunnage.api import typeurl
from dunnage.api.runc_options_pb2 import Options
from dunnage.api.services import TASK_V2, TASK_V3
from dunnage.descriptors import Any as PackedAny
from dunnage.errors import DunnageError, Unavailable
from dunnage.ttrpc.frames import MAX_DATA_BYTES

from .harness import LIMIT_S, Shim, in_loop, process, spec
from .test_exhaustion import traces
from .test_strangers import elsewhere, unharmed

pytestmark = pytest.mark.slow

LONG = "x" * (MAX_DATA_BYTES - 4096)
# Nothing that leads to what is the machine's, as "/" would, nor can be made there.
NOWHERE = "/proc/nowhere/" + "x" * 300
TEXTS = ["", "a\0b", "..", "-x", "\u202e\n\x1b", "%s{0}", NOWHERE, LONG]
VALUES: dict[str, list[Any]] = {
    "string": TEXTS,
    "bytes": [b"", b"\0", b"\xff" * 9, b"null", LONG.encode()],
    "int32": [-(2**31), 2**31 - 1],
    "uint32": [0, 2**32 - 1],
    "bool": [False, True],
}

Path_ = tuple[Any, ...]


def fields_of(descriptor: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Yield each field of a message, and of those in it, with each odd value."""
    for field in descriptor.fields:
        if field.message_type:
            if not field.message_type.GetOptions().map_entry:
                yield from fields_of(field.message_type, (*path, field))
            continue
        kind = next(
            name
            for name in VALUES
            if field.type == getattr(type(field), f"TYPE_{name.upper()}")
        )
        for value in VALUES[kind]:
            yield (*path, field), value


def altered(message: Any, path: Path_, value: Any) -> Any:
    """Return a message with another value of a field."""
    made = type(message)()
    made.CopyFrom(message)
    inner = made
    for step in path[:-1]:
        inner = getattr(inner, step.name)
        if hasattr(inner, "add"):
            inner = inner[0] if inner else inner.add()
    name = path[-1].name
    if hasattr(getattr(inner, name), "append"):
        getattr(inner, name).append(value)
    else:
        setattr(inner, name, value)
    return made


def named(path: Path_, value: Any) -> str:
    """Name a field and its value, for a message of failure."""
    return f"{'.'.join(step.name for step in path)} = {str(value)[:30]!r}"


async def answered(shim: Shim, method: Any, request: Any) -> DunnageError | None:
    """Send a request; return the error that is its answer.

    It must be one that somebody has thought of, and no closed connection.
    """
    said = None
    try:
        await shim.client("c").call(method, request, timeout_s=LIMIT_S)
    except DunnageError as error:
        said = error
    assert not isinstance(said, Unavailable), said
    assert "Error: " not in str(said)[:200], said  # a bug's own words
    return said


@pytest.mark.parametrize("methods", [TASK_V2, TASK_V3], ids=["v2", "v3"])
@in_loop
async def test_whatever_is_asked_of_a_container(tmp_path: Path, methods: Any) -> None:
    """Each has its answer, and the container is as it was."""
    value = json.dumps(process(["true"])).encode()
    exec_ = {"exec_id": "n", "spec": PackedAny(type_url="x", value=value)}
    async with Shim(tmp_path) as shim, unharmed(shim):
        await shim.exec("c", "e", ["sleep", "1000"])
        await shim.call("c", "start", exec_id="e")
        for method in methods:
            if method.name == "Create":
                continue
            names = method.request.DESCRIPTOR.fields_by_name
            more = exec_ if method.name == "Exec" else {}
            if "exec_id" in names and not more:
                more = {"exec_id": "e"}
            base = method.request(id="c", **more)
            for path, odd in fields_of(method.request.DESCRIPTOR):
                if method.name == "Wait" and (path[-1].name, odd) == ("exec_id", ""):
                    continue  # that is init, which lives
                if method.name == "Kill" and path[-1].name == "all":
                    continue
                error = await answered(shim, method, altered(base, path, odd))
                log = shim.log("c")
                assert "Traceback" not in log, (method.name, named(path, odd), log)
                if method.name == "Exec" and error is None:
                    id_ = "n" if path[-1].name != "exec_id" else odd
                    await shim.call("c", "delete", exec_id=id_)
                if method.name == "Pause" and error is None:
                    await shim.call("c", "resume")
        assert 2 == (await shim.call("c", "state", exec_id="e")).status
        await shim.call("c", "kill", exec_id="e", signal=9)
        await shim.call("c", "wait", exec_id="e")
        await shim.call("c", "delete", exec_id="e")


@in_loop
async def test_whatever_is_to_be_created(tmp_path: Path) -> None:
    """It is created, or there is an error and nothing is left of it."""
    async with Shim(tmp_path, runtime="crun") as shim, unharmed(shim):
        shim.bundle("n", spec(["true"]))
        base = shim.create_request("c", **elsewhere(shim, "n"))
        requests = {
            named(path, odd): altered(base, path, odd)
            for path, odd in fields_of(base.DESCRIPTOR)
        }
        for path, odd in fields_of(Options.DESCRIPTOR):
            request = type(base)()
            request.CopyFrom(base)
            options = altered(Options(binary_name=shim.runtime), path, odd)
            request.options.CopyFrom(typeurl.pack(options))
            requests[f"options: {named(path, odd)}"] = request
        for name, request in requests.items():
            error = await answered(shim, TASK_V2.create, request)
            log = shim.log("c")
            assert "Traceback" not in log, (name, log)
            if error is None:
                await shim.call("c", "delete", id=request.id)
            assert [] == traces(shim, "n"), (name, error)
