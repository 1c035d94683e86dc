"""The command line of ``dunnage``: what may be asked, and how failures end.

Owns: the words, the help texts, the exit status.
Must not know: how anything is done.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from dunnage import __version__
from dunnage.manager.places import Places

from .context import Context
from .errors import OWN_ERROR, exit_status, one_line
from .events import events
from .execute import execute
from .install.command import Wanted, check, install, uninstall
from .run import DEFAULT_RUNTIME, Run, run
from .tasks import kill, pause, ps, resume, rm

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import TypeAlias

    _Actions: TypeAlias = "argparse._SubParsersAction[_Parser]"  # noqa: SLF001
    _Command: TypeAlias = Callable[
        [Context, argparse.Namespace], Coroutine[None, None, int]
    ]

_log: Final = logging.getLogger("dunnage.cli")

# What a shell reports of a process that SIGINT, or SIGPIPE, has ended.
_INTERRUPTED: Final = 130
_NOBODY_READS: Final = 141

_EXAMPLES: Final = """\
examples:
  dunnage run --rm --rootfs ./busybox hello -- echo hello
  dunnage run --rm -it --rootfs ./busybox shell -- sh
  echo hello | dunnage run --rm -i --rootfs ./busybox cat -- cat
  dunnage run -d --oci-runtime crun --rootfs ./busybox web -- httpd -f
  dunnage exec web -- ps
  dunnage pause web
  dunnage resume web
  dunnage kill web KILL
  dunnage rm web
  dunnage events --follow
  dunnage install --as-stock --dry-run

exit status:
  the container's; 125 if dunnage itself fails, 126 if the command cannot be run,
  127 if it is not found
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    words, behind = _split(sys.argv[1:] if argv is None else argv)
    asked = _parser().parse_args(words)
    if behind is not None:
        # A second "--" is the command's own.
        before = getattr(asked, "command", [])
        asked.command = [*before, "--", *behind] if before else behind
    logging.basicConfig(
        level=logging.DEBUG if asked.debug else logging.WARNING,
        format="dunnage: %(message)s",
    )
    try:
        places = Places.make(asked.namespace, asked.state, asked.root)
        context = Context(places, debug=asked.debug)
        command: _Command = asked.call
        return asyncio.run(command(context, asked))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _INTERRUPTED
    except BrokenPipeError:
        # Nobody reads our output, and Python must not try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS
    except Exception as error:  # noqa: BLE001 - the last resort: one line, and 125
        _log.debug("it failed so", exc_info=True)
        print(f"dunnage: {one_line(error)}", file=sys.stderr)
        return exit_status(error)


def _split(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Divide at the first ``--``; argparse has ideas of its own about it."""
    if "--" not in words:
        return list(words), None
    at = words.index("--")
    return list(words[:at]), list(words[at + 1 :])


def _run(context: Context, asked: argparse.Namespace) -> Coroutine[None, None, int]:
    return run(
        context,
        Run(
            name=asked.name,
            command=asked.command,
            rootfs=asked.rootfs,
            bundle=asked.bundle,
            runtime=asked.runtime,
            oci_runtime=asked.oci_runtime,
            is_detached=asked.detach,
            is_removed=asked.rm,
            is_interactive=asked.interactive,
            has_terminal=asked.tty,
            has_timeline=asked.timeline,
        ),
    )


class _Parser(argparse.ArgumentParser):
    """argparse, with our exit status and one line of complaint."""

    def error(self, message: str) -> NoReturn:
        self.exit(OWN_ERROR, f"dunnage: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dunnage",
        description="Run containers through containerd Runtime v2 shims, daemonless.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"dunnage {__version__}")
    add("--debug", action="store_true", help="say more, and show the shim's log")
    add("--namespace", default="default", help="namespace of the tasks (%(default)s)")
    add("--state", default="", metavar="DIR", help="state (/run/dunnage)")
    add("--root", default="", metavar="DIR", help="what persists (/var/lib/dunnage)")
    actions = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    _add_run(actions)
    _add_exec(actions)
    _add_ps(actions)
    _add_kill(actions)
    _add_pause_and_resume(actions)
    _add_rm(actions)
    _add_events(actions)
    _add_install_and_uninstall(actions)
    return parser


def _add_run(actions: _Actions) -> None:
    text = "run a command in a new container"
    parser = actions.add_parser("run", help=text, description=text)
    parser.set_defaults(call=_run)
    add = parser.add_argument
    add("--rm", action="store_true", help="remove the task when it has ended")
    add("-d", "--detach", action="store_true", help="leave it running, without streams")
    _add_stdin_and_tty(parser)
    add(
        "--runtime",
        default=DEFAULT_RUNTIME,
        metavar="NAME|PATH",
        help="the shim: a runtime's name or the path of a binary (%(default)s)",
    )
    add(
        "--oci-runtime",
        default="",
        metavar="BINARY",
        help="what the shim runs containers with: runc, crun or a path",
    )
    add(
        "--timeline",
        action="store_true",
        help="say the task's events on stderr in the end",
    )
    root = parser.add_mutually_exclusive_group(required=True)
    root.add_argument(
        "--rootfs", default="", metavar="DIR", help="root filesystem, read-write"
    )
    root.add_argument(
        "--bundle", default="", metavar="DIR", help="OCI bundle: config.json and root"
    )
    _add_name_and_command(parser)


def _add_exec(actions: _Actions) -> None:
    text = "run a command in a container that runs"
    parser = actions.add_parser("exec", help=text, description=text)
    parser.set_defaults(
        call=lambda context, asked: execute(
            context,
            asked.name,
            asked.command,
            is_interactive=asked.interactive,
            has_terminal=asked.tty,
        )
    )
    _add_stdin_and_tty(parser)
    _add_name_and_command(parser)


def _add_ps(actions: _Actions) -> None:
    parser = actions.add_parser("ps", help="list tasks", description="list tasks")
    parser.set_defaults(call=lambda context, _: ps(context))


def _add_kill(actions: _Actions) -> None:
    text = "send a signal to a container"
    parser = actions.add_parser("kill", help=text, description=text)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "signal", metavar="SIGNAL", nargs="?", default="TERM", help="(%(default)s)"
    )
    parser.set_defaults(
        call=lambda context, asked: kill(context, asked.name, asked.signal)
    )


def _add_pause_and_resume(actions: _Actions) -> None:
    for word, call, text in (
        ("pause", pause, "freeze all processes of a container"),
        ("resume", resume, "thaw a container that is paused"),
    ):
        parser = actions.add_parser(word, help=text, description=text)
        parser.add_argument("name", metavar="NAME")
        parser.set_defaults(
            call=lambda context, asked, call=call: call(context, asked.name)
        )


def _add_rm(actions: _Actions) -> None:
    text = "remove a task that has stopped"
    parser = actions.add_parser("rm", help=text, description=text)
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="kill it first, and drop output that nobody has read",
    )
    parser.add_argument("name", metavar="NAME")
    parser.set_defaults(
        call=lambda context, asked: rm(context, asked.name, force=asked.force)
    )


def _add_events(actions: _Actions) -> None:
    text = "print the events of the namespace"
    parser = actions.add_parser("events", help=text, description=text)
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="and wait for more")
    add("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(
        call=lambda context, asked: events(
            context, follow=asked.follow, as_json=asked.json
        )
    )


def _add_install_and_uninstall(actions: _Actions) -> None:
    text = "put the shim where containerd finds it"
    parser = actions.add_parser("install", help=text, description=text)
    parser.set_defaults(call=_install)
    add = parser.add_argument
    add(
        "--as-stock",
        action="store_true",
        help="also in the place of containerd-shim-runc-v2, which is kept aside",
    )
    add(
        "--check",
        action="store_true",
        help="only say how things are: 0 if it is installed and current, else 1",
    )
    _add_into_and_dry_run(parser, "/usr/local/bin, and where the stock shim is")
    text = "take it away, and put back what was there before"
    parser = actions.add_parser("uninstall", help=text, description=text)
    parser.set_defaults(call=_uninstall)
    _add_into_and_dry_run(parser, "wherever containerd looks")


def _add_into_and_dry_run(parser: argparse.ArgumentParser, default: str) -> None:
    add = parser.add_argument
    add("--into", default="", metavar="DIR", help=f"the directory ({default})")
    add("--dry-run", action="store_true", help="only say what would be done")
    add("--force", action="store_true", help="also where containers could be lost")


async def _install(_: Context, asked: argparse.Namespace) -> int:
    wanted = Wanted(asked.into, asked.as_stock, asked.dry_run, asked.force)
    return check(wanted) if asked.check else install(wanted)


async def _uninstall(_: Context, asked: argparse.Namespace) -> int:
    return uninstall(Wanted(asked.into, is_dry=asked.dry_run, is_forced=asked.force))


def _add_stdin_and_tty(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="give it our stdin")
    add("-t", "--tty", action="store_true", help="give it a terminal, shown in ours")


def _add_name_and_command(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "command", metavar="-- CMD", nargs=argparse.REMAINDER, help="and its arguments"
    )


if __name__ == "__main__":
    sys.exit(main())
