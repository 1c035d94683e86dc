"""The twins of benchmarks/report.py, results.py and options.py."""

from __future__ import annotations

import json

import pytest
from benchmarks import report
from benchmarks.options import parse
from benchmarks.results import Results
from benchmarks.subjects import REFERENCE
from benchmarks.verdict import Verdict


@pytest.fixture
def results() -> Results:
    """Two shims, two rounds; an event of the second was lost."""
    found = Results("runc", 2)
    for life, floor in ((30.0, 10.0), (40.0, 20.0)):
        found.add(REFERENCE, {"life": life, "floor": floor})
    for life_or_lost, floor in ((20.0, 10.0), (None, 20.0)):
        found.add("dunnage", {"life": life_or_lost, "floor": floor})
    found.absent["rust-0.2"] = "it is not there"
    found.verdicts["dunnage"] = Verdict(9, 1, 0, 0, ["missing: exit of c1"])
    found.derive()
    return found


def test_a_table_tells_medians_ratios_and_losses(results: Results) -> None:
    """A row has a median for each shim, the ratio, and how many samples were lost."""
    lines = {line[:24].strip(): line for line in report.table(results).splitlines()}

    assert "10.0 ×0.50 (1 lost)" in lines["one life above the floor"]
    assert "absent: rust-0.2: it is not there" in report.table(results)


def test_a_page_has_the_same_rows(results: Results) -> None:
    """The page is a table of Markdown, with its pictures."""
    text = report.page(results, ["times.svg"])

    assert "| one life above the floor | ms |" in text
    assert "![times](times.svg)" in text


def test_json_has_all_samples(results: Results) -> None:
    """Whoever wants other figures can work them out."""
    told = json.loads(results.to_json())

    assert [20.0, None] == told["samples"]["dunnage"]["life"]
    assert 20.0 == told["summary"][REFERENCE]["above"]["value"]["median"]


def test_a_lost_event_of_ours_is_a_fault(results: Results) -> None:
    """The run fails for ours, and for nobody else."""
    assert [] == results.faults([REFERENCE])
    assert ["dunnage: 1 events missing, 0 misordered: missing: exit of c1"] == (
        results.faults(["dunnage"])
    )


def test_ksm_is_never_changed_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    """It is a setting of the host: naming the row is not enough."""
    with pytest.raises(SystemExit):
        parse(["--only", "ksm"])

    assert "needs --ksm" in capsys.readouterr().err
    assert not parse(["--quick"]).ksm
