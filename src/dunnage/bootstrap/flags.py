"""The command line of a shim, in the syntax of Go's flag package.

Owns: which flags there are, how they are read, and how the daemon's side writes them.
Must not know: what an action does, nor who prints.

The thin client imports this module on the way of every container.

Invariant (cold-start): nothing is imported here but ``types``; a dataclass would cost
    13 ms, ``typing`` alone 9.
"""

from __future__ import annotations

from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

# The most that `start` reads of its stdin; the reference has the same limit.
STDIN_LIMIT_BYTES: Final = 10 << 20

# Name on the command line, attribute of `Flags`, help.
_TEXT_FLAGS: Final = (
    ("namespace", "namespace", "containerd namespace that the task lives in"),
    ("address", "address", "path of the daemon's gRPC socket"),
    ("publish-binary", "publish_binary", "program that publishes an event"),
    ("id", "id", "id of the task"),
    ("bundle", "bundle", "path of the bundle (delete)"),
    ("socket", "socket", "serve on this socket instead of an inherited one"),
    ("debug-socket", "debug_socket", "socket for debugging"),
)
_SWITCHES: Final = (
    ("debug", "debug", "log more"),
    ("v", "version", "print the version and exit"),
    ("version", "version", "print the version and exit"),
    ("info", "info", "print what this runtime can do and exit"),
)
_ATTRIBUTES: Final = {name: attribute for name, attribute, _ in _TEXT_FLAGS + _SWITCHES}
_SWITCH_NAMES: Final = frozenset(name for name, _, _ in _SWITCHES)
_TRUE: Final = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE: Final = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class FlagError(Exception):
    """The command line cannot be read; ``exit_status`` is what Go's flags exit with.

    The text is Go's, so that a daemon that looks for it finds it (an old shim is told
    by ``flag provided but not defined: -info``).
    It is empty when ``-h`` only asked for the usage.
    """

    def __init__(self, text: str, exit_status: int = 2) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class Flags(SimpleNamespace):
    """A command line that was read; a value.

    ``action`` is the first word that is no flag: ``start``, ``delete``, or empty.
    """

    namespace: str
    address: str
    publish_binary: str
    id: str
    bundle: str
    debug: bool
    socket: str
    debug_socket: str
    version: bool
    info: bool
    action: str

    def __init__(
        self,
        *,
        namespace: str = "",
        address: str = "",
        publish_binary: str = "",
        id: str = "",  # noqa: A002 - containerd's word for it
        bundle: str = "",
        debug: bool = False,
        socket: str = "",
        debug_socket: str = "",
        version: bool = False,
        info: bool = False,
        action: str = "",
    ) -> None:
        super().__init__(
            namespace=namespace,
            address=address,
            publish_binary=publish_binary,
            id=id,
            bundle=bundle,
            debug=debug,
            socket=socket,
            debug_socket=debug_socket,
            version=version,
            info=info,
            action=action,
        )

    def argv(self) -> list[str]:
        """Write the command line that reads back as this value, without argv[0]."""
        words = []
        for name, attribute, _ in _TEXT_FLAGS:
            if value := getattr(self, attribute):
                words += [f"-{name}", value]
        # `-v`, as only shims from 2.3 on know `-version`.
        for name in ("debug", "v", "info"):
            if getattr(self, _ATTRIBUTES[name]):
                words.append(f"-{name}")
        if self.action:
            # A word that looks like a flag can only stand behind the terminator.
            words += ["--"] if self.action.startswith("-") else []
            words.append(self.action)
        return words


def parse(argv: Sequence[str]) -> Flags:
    """Read ``argv`` (without argv[0]); what follows the action is ignored, as in Go.

    Raises:
        FlagError: the words are not ours; print its text and `usage` to stderr and
            exit with its ``exit_status``.
    """
    flags = Flags()
    at = 0
    while at < len(argv):
        word = argv[at]
        if len(word) < 2 or not word.startswith("-"):
            flags.action = word
            break
        at += 1
        if word == "--":
            flags.action = argv[at] if at < len(argv) else ""
            break
        dashes = 2 if word.startswith("--") else 1
        name, equals, value = word[dashes:].partition("=")
        if not name or name.startswith("-"):
            raise FlagError(f"bad flag syntax: {word}")
        if name not in _ATTRIBUTES:
            if name in {"h", "help"}:
                raise FlagError("", exit_status=0)
            raise FlagError(f"flag provided but not defined: -{name}")
        if name in _SWITCH_NAMES:
            setattr(flags, _ATTRIBUTES[name], _switch(name, value) if equals else True)
            continue
        if not equals:
            if at == len(argv):
                raise FlagError(f"flag needs an argument: -{name}")
            value = argv[at]
            at += 1
        setattr(flags, _ATTRIBUTES[name], value)
    return flags


def usage(program: str) -> str:
    """Return the text for stderr that says which flags there are."""
    lines = [f"Usage of {program}: [flags] start | delete"]
    lines += [f"  -{name} VALUE\n\t{text}" for name, _, text in _TEXT_FLAGS]
    lines += [f"  -{name}\n\t{text}" for name, _, text in _SWITCHES]
    return "\n".join(lines) + "\n"


def _switch(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    raise FlagError(f'invalid boolean value "{quoted}" for -{name}: parse error')
