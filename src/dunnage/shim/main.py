"""What containerd executes: reads the command line and hands over.

Invariant (cold-start): neither asyncio nor protobuf is imported before it is known
that they are needed.
"""

from __future__ import annotations

import os
import sys

from dunnage.bootstrap import flags, warm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias


Start: TypeAlias = "Callable[[flags.Flags, bytes], bytes]"


def start(given: flags.Flags, stdin: bytes) -> bytes:
    """Do what `start` does; the real one is imported when it is needed."""
    from .start import start

    return start(given, stdin)


def main(start: Start = start) -> int:
    """Run the shim binary; return its exit status.

    Args:
        start: does the action of that name.
    """
    called_as = os.environ.pop(warm.ARGV0_VARIABLE, "") or sys.argv[0]
    sys.argv[0] = called_as
    name = os.path.basename(called_as)
    try:
        given = flags.parse(sys.argv[1:])
    except flags.FlagError as error:
        text = f"{error}\n" if str(error) else ""
        sys.stderr.write(f"{text}{flags.usage(name)}")
        return error.exit_status
    try:
        return _act(name, given, start)
    except Exception as error:  # noqa: BLE001  # the daemon shows this line to a user
        sys.stderr.write(f"{name}: {describe(error)}")
        return 1


def describe(error: Exception) -> str:
    """Return an error as the one line that the daemon logs or shows."""
    text = str(error) or type(error).__name__
    return " ".join(text.split())


def _act(name: str, given: flags.Flags, start: Start) -> int:
    if given.version:
        return _version(name)
    if given.info:
        from .info import info

        return _answer(info(sys.stdin.buffer.read(flags.STDIN_LIMIT_BYTES)))
    if not given.namespace:
        sys.stderr.write(f"{name}: shim namespace cannot be empty")
        return 1
    match given.action:
        case "start":
            # One byte more than allowed: the reader of it says what is too much.
            stdin = sys.stdin.buffer.read(flags.STDIN_LIMIT_BYTES + 1)
            return _answer(start(given, stdin))
        case "delete":
            from .delete import delete

            return _answer(delete(given))
        case "":
            from .daemon import serve_here

            return serve_here(given)
        case other:
            sys.stderr.write(f"{name}: unknown action {other!r}\n{flags.usage(name)}")
            return 2


def _answer(data: bytes) -> int:
    """Write the one result, and nothing else."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0


def _version(name: str) -> int:
    from dunnage import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    lines = (f"{name}:", f"  Version:  {__version__}", f"  Python version: {python}")
    sys.stdout.write("\n".join(lines) + "\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
