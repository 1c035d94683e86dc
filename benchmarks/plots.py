"""Pictures of a run, by matplotlib."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

from .results import Results, Row

_PICTURES: Final = {
    "times.svg": ("ms", "Times (median, and p10 to p90)"),
    "memory.svg": ("MiB", "Memory per container"),
}
_COLOURS: Final = ("#4c72b0", "#8fb0d9", "#c44e52", "#55a868", "#a9d3b5", "#937860")


def pyplot() -> Any:
    """Return matplotlib's pyplot, for files only, with the same bytes each time."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "dunnage"
    return importlib.import_module("matplotlib.pyplot")


def plots(results: Results, folder: Path) -> list[str]:
    """Draw what there is; return the names of the files."""
    drawn = []
    for name, (unit, title) in _PICTURES.items():
        if rows := [row for row in results.rows() if row.unit == unit]:
            _draw(results, rows, title, folder / name)
            drawn.append(name)
    return drawn


def _draw(results: Results, rows: list[Row], title: str, path: Path) -> None:
    plt = pyplot()
    columns = 3 if len(rows) > 4 else 2
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.4 * columns, 2.1 * lines), squeeze=False
    )
    for axis, row in zip(axes.flat, rows, strict=False):
        _bars(results, row, axis)
    for axis in list(axes.flat)[len(rows) :]:
        axis.axis("off")
    figure.suptitle(f"{title}, {results.runtime}")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(results: Results, row: Row, axis: Any) -> None:
    """Draw one row: a bar for each shim, with its spread."""
    shims = results.shims()[::-1]
    for at, shim in enumerate(shims):
        spread = results.spread(shim, row.name)
        if spread is None:
            continue
        colour = _COLOURS[(len(shims) - 1 - at) % len(_COLOURS)]
        error = [[spread.median - spread.low], [spread.high - spread.median]]
        axis.barh(at, spread.median, color=colour, xerr=error, ecolor="#333333")
    axis.set_yticks(range(len(shims)), shims, fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_title(f"{row.title} ({row.unit})", fontsize=9)
    axis.set_xlim(left=0)
