"""The library of C: which one is taken, and that ours was built."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from dunnage.host import native

ROOT = Path(__file__).parents[2]


def test_what_is_no_library_is_done_without(tmp_path: Path) -> None:
    """No file, or another sort of file."""
    odd = tmp_path / "odd.so"
    odd.write_text("odd")
    assert native.load(str(odd)) is None
    assert native.load(str(tmp_path / "none.so")) is None


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a compiler")
def test_a_library_of_another_layout_is_done_without(tmp_path: Path) -> None:
    """An older or newer build, or a stranger's, is not called."""
    for name, source in (
        ("other", "const int dunnage_layout = -1;"),
        ("strange", "const int strange = 1;"),
    ):
        path = tmp_path / f"{name}.so"
        subprocess.run(
            ["cc", "-shared", "-x", "c", "-", "-o", str(path)],
            input=source.encode(),
            check=True,
        )
        assert native.load(str(path)) is None


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a compiler")
def test_it_is_built_where_there_is_a_compiler() -> None:
    """The build makes it, of the layout that is stated in Python too."""
    assert native.library is not None


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a compiler")
def test_its_structures_are_those_of_python(tmp_path: Path) -> None:
    """Same sizes, and every field where Python puts it."""
    source = "".join(
        (ROOT / "native" / name).read_text() for name in ("procs.c", "memory.c")
    )
    kinds = {"order": native.Order, "errand": native.Errand, "range": native.Range}
    for name, kind in kinds.items():
        facts = [(f"sizeof(struct {name})", ctypes.sizeof(kind))]
        for field, *_ in kind._fields_:
            where = f"__builtin_offsetof(struct {name}, {field})"
            facts.append((where, getattr(kind, field).offset))
        for term, value in facts:
            source += f'_Static_assert({term} == {value}, "{term}");\n'
    subprocess.run(
        [
            "cc",
            "-std=gnu11",
            f"-I{ROOT}/native",
            "-c",
            "-x",
            "c",
            "-",
            "-o",
            str(tmp_path / "o"),
        ],
        input=source.encode(),
        check=True,
    )
