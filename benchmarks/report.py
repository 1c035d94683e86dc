"""The table of a run, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .results import Results, Row, machine
from .stats import Spread
from .subjects import REFERENCE

_LEGEND = (
    "median (p10–p90) of the counted rounds; "
    f"× is the median ratio to {REFERENCE} (under containerd 1.6: go-1.6) in each round"
)


def table(results: Results) -> str:
    """Return the table as plain text."""
    lines = [[*_head(results)], *_body(results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*text, "", _LEGEND, *_notes(results)])


def page(results: Results, plots: Sequence[str]) -> str:
    """Return the table as a page of Markdown, with pictures by their file names."""
    head, body = _head(results), list(_body(results))
    rule = ["---", *["--:" for _ in head[1:]]]
    where = ", ".join(
        f"{key} {value}" for key, value in machine(results.runtime).items()
    )
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Made by `script/bench --docs`; do not edit.",
            "What each row means: [performance](../performance.md).",
            "",
            *(f"| {' | '.join(line)} |" for line in (head, rule, *body)),
            "",
            f"{_LEGEND[0].upper()}{_LEGEND[1:]}.",
            f"{results.rounds} rounds with {results.runtime}; {where}.",
            "",
            *(f"- {note}" for note in _notes(results)),
            "",
            *(f"![{name.partition('.')[0]}]({name})\n" for name in plots),
            "All samples: [results.json](results.json).",
            "",
        ]
    )


def _head(results: Results) -> list[str]:
    return [results.runtime, "", *results.shims()]


def _body(results: Results) -> Iterator[list[str]]:
    shims = results.shims()
    for row in results.rows():
        yield [row.title, row.unit, *(_cell(results, shim, row) for shim in shims)]
    verdicts = [results.verdicts.get(shim) for shim in shims]
    for title, attribute in (
        ("events said", "events"),
        ("events missing", "missing"),
        ("deletes of execs missing", "exec_deletes"),
        ("events misordered or wrong", "misordered"),
    ):
        cells = [str(getattr(said, attribute)) if said else "–" for said in verdicts]
        yield [title, "", *cells]


def _cell(results: Results, shim: str, row: Row) -> str:
    if not (samples := results.of(shim, row.name)):
        return "–"
    if (spread := results.spread(shim, row.name)) is None:
        return "lost"
    text = _value(spread, row)
    if row.name != "floor" and (ratio := results.ratio(shim, row.name)):
        text += f" ×{ratio.median:.2f}"
    lost = sum(sample is None for sample in samples)
    return f"{text} ({lost} lost)" if lost else text


def _value(spread: Spread, row: Row) -> str:
    text = f"{spread.median:.{row.digits}f}"
    if spread.count == 1:
        return text
    return f"{text} ({spread.low:.{row.digits}f}–{spread.high:.{row.digits}f})"


def _notes(results: Results) -> list[str]:
    absent = [f"absent: {name}: {why}" for name, why in results.absent.items()]
    failed = [f"failed: {failure}" for failure in results.failures]
    return absent + failed
