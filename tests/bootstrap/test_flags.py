"""Twin of dunnage.bootstrap.flags."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.bootstrap.flags import FlagError, Flags, parse, usage

DAEMON = Flags(
    namespace="default",
    address="/run/containerd/containerd.sock",
    publish_binary="/usr/bin/containerd",
    id="c1",
    bundle="/b",
    action="delete",
)


def test_daemon_start() -> None:
    """The command line of every containerd since 1.6 is understood."""
    words = (
        "-namespace default -address /run/containerd/containerd.sock "
        "-publish-binary /usr/bin/containerd -id c1 -debug start"
    )
    expected = Flags(
        namespace="default",
        address="/run/containerd/containerd.sock",
        publish_binary="/usr/bin/containerd",
        id="c1",
        debug=True,
        action="start",
    )
    assert expected == parse(words.split())


def test_daemon_argv() -> None:
    """What the manager writes is what the daemon writes, in its order."""
    assert " ".join(DAEMON.argv()) == (
        "-namespace default -address /run/containerd/containerd.sock "
        "-publish-binary /usr/bin/containerd -id c1 -bundle /b delete"
    )


@pytest.mark.parametrize(
    "words", [["-id", "x"], ["--id", "x"], ["-id=x"], ["--id=x"], ["-id", "y", "-id=x"]]
)
def test_text_syntax(words: list[str]) -> None:
    """A text flag is written in any of Go's four ways, and the last one counts."""
    assert Flags(id="x") == parse(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-debug"], True),
        (["--debug"], True),
        (["-debug=false"], False),
        (["-debug=T"], True),
        (["-debug=0"], False),
    ],
)
def test_switch_syntax(words: list[str], expected: bool) -> None:
    """A switch takes its value behind an equals sign only."""
    assert Flags(debug=expected) == parse(words)


def test_switch_takes_no_word() -> None:
    """The word behind a switch is the action."""
    assert Flags(debug=True, action="false") == parse(["-debug", "false", "start"])


@pytest.mark.parametrize("word", ["-v", "-version", "--v"])
def test_version(word: str) -> None:
    """Both names of the version flag are known."""
    assert Flags(version=True) == parse([word])


def test_info() -> None:
    """``-info`` is a flag and no action."""
    assert Flags(info=True, action="") == parse(["-info"])


def test_stops_at_the_action() -> None:
    """Flags behind the first other word are not read, unknown ones neither."""
    assert Flags(id="a", action="start") == parse(["-id", "a", "start", "-id", "b"])
    assert Flags(action="start") == parse(["start", "-nonsense"])
    assert Flags(action="-") == parse(["-", "-nonsense"])


def test_terminator() -> None:
    """A double dash ends the flags."""
    assert Flags(id="a", action="-debug") == parse(["-id", "a", "--", "-debug"])
    assert Flags() == parse(["--"])


def test_text_may_look_like_a_flag() -> None:
    """The word behind a text flag is its value, whatever it looks like."""
    assert Flags(id="-debug") == parse(["-id", "-debug"])
    assert Flags(id="a=b") == parse(["-id=a=b"])
    assert Flags(id="") == parse(["-id="])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-x"], "flag provided but not defined: -x"),
        (["--x=1"], "flag provided but not defined: -x"),
        (["-id"], "flag needs an argument: -id"),
        (["-debug=perhaps"], 'invalid boolean value "perhaps" for -debug: parse error'),
        (["-debug="], 'invalid boolean value "" for -debug: parse error'),
        (['-debug="'], 'invalid boolean value "\\"" for -debug: parse error'),
        (["---id"], "bad flag syntax: ---id"),
        (["-=id"], "bad flag syntax: -=id"),
    ],
)
def test_errors_are_go_s(words: list[str], text: str) -> None:
    """What Go refuses is refused in its words and with its exit status."""
    with pytest.raises(FlagError) as caught:
        parse(words)
    assert (text, 2) == (str(caught.value), caught.value.exit_status)


@pytest.mark.parametrize("word", ["-h", "-help", "--help"])
def test_help(word: str) -> None:
    """Asking for help is no error."""
    with pytest.raises(FlagError) as caught:
        parse([word])
    assert (str(caught.value), caught.value.exit_status) == ("", 0)


def test_usage_names_every_flag() -> None:
    """The usage text names the program and each flag."""
    text = usage("containerd-shim-dunnage-v2")
    assert text.startswith("Usage of containerd-shim-dunnage-v2:")
    for name in ("namespace", "publish-binary", "debug-socket", "v", "info"):
        assert f"  -{name}" in text


def test_value() -> None:
    """Flags compare by content and show what is set."""
    assert Flags(id="a") == Flags(id="a", bundle="")
    assert Flags(id="a") != Flags(id="b")
    assert "id='a'" in repr(Flags(id="a"))


TEXT = st.text(max_size=8)
FLAGS = st.builds(
    Flags,
    namespace=TEXT,
    address=TEXT,
    publish_binary=TEXT,
    id=TEXT,
    bundle=TEXT,
    socket=TEXT,
    debug_socket=TEXT,
    debug=st.booleans(),
    version=st.booleans(),
    info=st.booleans(),
    action=TEXT,
)


@given(FLAGS)
def test_round_trip(flags: Flags) -> None:
    """What is written reads back as the same value."""
    assert flags == parse(flags.argv())


@given(st.lists(st.text(max_size=6) | st.sampled_from(["-id", "-debug", "--", "-v="])))
def test_any_words(words: list[str]) -> None:
    """Any words give a value or a FlagError."""
    with suppress(FlagError):
        assert isinstance(parse(words), Flags)
