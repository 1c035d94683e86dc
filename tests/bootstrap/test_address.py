"""Twin of dunnage.bootstrap.address."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.bootstrap import address
from dunnage.errors import InvalidArgument, Unimplemented

GRPC = "/run/containerd/containerd.sock"
HASH = "d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"
DEBUG_HASH = "3c26dcd5c4a5937250e0cb81a75fbad35bcc7a20d35d1a0f3a4da34928b0ae5a"


def test_vector() -> None:
    """The socket's name is the one that containerd's own shim takes."""
    assert f"unix:///run/containerd/s/{HASH}" == address.socket_address(
        GRPC, "default", "c1"
    )


def test_debug_vector() -> None:
    """So is the debug socket's."""
    assert f"unix:///run/containerd/s/{DEBUG_HASH}" == address.socket_address(
        GRPC, "default", "c1", debug=True
    )


def test_directory() -> None:
    """The directory can be another one."""
    assert f"unix:///tmp/s/{HASH}" == address.socket_address(
        GRPC, "default", "c1", directory="/tmp//s/"
    )


@pytest.mark.parametrize(
    "grpc", ["//run//containerd/containerd.sock", "/run/./containerd/containerd.sock/"]
)
def test_path_is_cleaned(grpc: str) -> None:
    """Slashes and dots too many make no other socket, as in Go."""
    assert HASH in address.socket_address(grpc, "default", "c1")


def test_empty_parts_do_not_count() -> None:
    """What is empty adds no slash."""
    digest = hashlib.sha256(b"default/c1").hexdigest()
    assert address.socket_address("", "default", "c1").endswith(digest)


def test_longest_directory() -> None:
    """A directory of 42 bytes is the longest that leaves room for the name."""
    directory = "/" + "x" * 41
    name = address.unix_name(
        address.socket_address(GRPC, "default", "c1", directory=directory)
    )
    assert len(name) == address.SUN_PATH_LIMIT_BYTES
    with pytest.raises(InvalidArgument, match="1 bytes too long"):
        address.socket_address(GRPC, "default", "c1", directory=directory + "x")


def test_relative_directory() -> None:
    """A relative directory would be another one for each side."""
    with pytest.raises(InvalidArgument, match="not an absolute path"):
        address.socket_address(GRPC, "default", "c1", directory="s")


@given(st.text(min_size=1, max_size=9), st.text(min_size=1, max_size=9))
def test_any_text(namespace: str, group: str) -> None:
    """Any text gives a name that fits, even one that is no UTF-8."""
    name = address.socket_address(
        GRPC, namespace.encode().decode("utf-8"), group + "\udcff"
    )
    assert len(address.unix_name(name)) <= address.SUN_PATH_LIMIT_BYTES


def test_hash_without_openssl() -> None:
    """The bare SHA-256 is the same as hashlib's."""
    assert hashlib.sha256(b"abc").hexdigest() == address._sha256_hex(b"abc")


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, "c1"),
        ({"io.kubernetes.cri.sandbox-id": "pod"}, "pod"),
        ({"io.containerd.runc.v2.group": "g"}, "g"),
        (
            {
                "io.kubernetes.cri.sandbox-id": "pod",
                "io.containerd.runc.v2.group": "g",
            },
            "g",
        ),
        (
            {
                "io.kubernetes.cri.sandbox-id": "pod",
                "io.containerd.runc.v2.group": "",
            },
            "pod",
        ),
        ({"io.kubernetes.cri.container-type": "container"}, "c1"),
    ],
)
def test_group(annotations: dict[str, str], expected: str) -> None:
    """The first known annotation with a value names the group, else the own id."""
    assert expected == address.group_id(annotations, "c1")


def test_group_stays_in_its_namespace() -> None:
    """A group cannot name the shim of another namespace."""
    with pytest.raises(InvalidArgument, match=r"io\.containerd\.runc\.v2\.group"):
        address.group_id({"io.containerd.runc.v2.group": "../other/c1"}, "c1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:///run/x", "/run/x"),
        ("unix://\0x", "\0x"),
        ("/containerd-shim/x.sock", "\0/containerd-shim/x.sock"),
        ("unix:///a://b", "/a://b"),
    ],
)
def test_unix_name(text: str, expected: str) -> None:
    """An address is a path behind its scheme, or the name of an abstract socket."""
    assert expected == address.unix_name(text)


@pytest.mark.parametrize("text", ["", "unix://"])
def test_no_name(text: str) -> None:
    """An address without a name is refused."""
    with pytest.raises(InvalidArgument, match="names no socket"):
        address.unix_name(text)


@pytest.mark.parametrize("text", ["vsock://3:1024", "hvsock:///x:1", "://x"])
def test_other_schemes(text: str) -> None:
    """Sockets of virtual machines are not spoken here."""
    with pytest.raises(Unimplemented, match="scheme"):
        address.unix_name(text)
