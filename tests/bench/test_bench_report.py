"""The JSON of a run, its schema, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jina_sm.bench import published, report
from jina_sm.errors import InputError
from tests.bench.made import measured

ROOT = Path(__file__).parents[2]


def test_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    run = measured({"one": 0.1, "two": 0.05}, fails_every={"one": 7}, told=True)
    file = tmp_path / "run.json"
    file.write_bytes(report.encoded(run))
    again = report.read(str(file))
    assert again == run
    assert again.summaries == run.summaries
    told = json.loads(file.read_bytes())
    assert told["cells"][0]["response_s"] == run.cells[0].response_s
    assert len(told["samples"]["due_s"]) == len(run.samples)


def test_the_figures_are_made_anew_from_the_samples(tmp_path: Path) -> None:
    run = measured({"one": 0.1})
    told = json.loads(report.encoded(run))
    told["cells"][0]["response_s"] = 1e9
    (tmp_path / "run.json").write_text(json.dumps(told), encoding="utf-8")
    assert report.read(str(tmp_path / "run.json")).cells == run.cells


def test_the_schema_is_the_published_one_and_the_document_fits_it() -> None:
    kept = json.loads((ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8"))
    assert kept == report.schema(), "jina-sm bench report --schema > docs/bench.schema.json"
    schema = report.schema()
    told = json.loads(report.encoded(measured({"one": 0.1})))
    assert set(schema["properties"]) == set(told) == set(schema["required"])
    for name, where in (("Cell", "cells"), ("Summary", "summaries"), ("Facts", "targets"), ("Setting", "settings")):
        assert set(schema["$defs"][name]["properties"]) == set(told[where][0])
    assert set(schema["$defs"]["Columns"]["properties"]) == set(told["samples"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.update(format="other/1"), "format"),
        (lambda told: told.pop("samples"), "samples"),
        (lambda told: told["samples"]["due_s"].pop(), "different lengths"),
        (lambda told: told["samples"]["setting"].__setitem__(0, 99), "a setting or a target that is not there"),
        (lambda told: told["samples"]["target"].__setitem__(0, "x"), "a setting or a target that is not there"),
        (lambda told: told["settings"][0].update(concurrency="many"), "settings.0.concurrency"),
    ],
)
def test_what_is_no_run_is_refused_and_says_where(tmp_path: Path, change: object, words: str) -> None:
    told = json.loads(report.encoded(measured({"one": 0.1})))
    change(told)  # type: ignore[operator]
    (tmp_path / "run.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        report.read(str(tmp_path / "run.json"))


def test_a_file_that_is_not_there_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        report.read(str(tmp_path / "none.json"))
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is no run"):
        report.read(str(tmp_path / "x.json"))


def test_the_response_curve_is_that_of_one_target() -> None:
    run = measured({"one": 0.1, "two": 0.05})
    rows = report.response_times(run, "two")
    assert len(rows) == 6
    assert rows[0] == {"batch": 1, "tokens": 128.0, "concurrency": 1, "mean_s": run.cells[6].response_s}
    assert report.response_times(measured({"one": 0.1}))
    for wrong in (None, "three"):
        with pytest.raises(InputError, match="the targets one, two"):
            report.response_times(run, wrong)
    assert report.response_times(measured({"one": 0.1}, fails_every={"one": 1})) == []


def test_the_table_fits_eighty_columns_and_has_the_published_beside() -> None:
    lines: list[str] = []
    report.table(measured({"one": 0.1, "two": 0.05}, kinds={"two": "jina-api"}), lines.append)
    assert [line for line in lines if len(line) > 80] == []
    assert any(line.startswith("published SageMaker") and "99.9 %" in line for line in lines)
    assert any(line.startswith("  ... these settings") for line in lines)
    (row,) = [line for line in lines if line.startswith("32 x 128") and line.endswith("1.650")]
    assert "10 at once" in row


def test_what_a_reader_has_to_know_is_said() -> None:
    changes = {"time_scale": 0.15, "lengths": {"128": 72}, "counted_by": "estimate", "first_errors": {"X": "why"}}
    (facts,) = measured({"one": 0.1}, changes=changes).targets
    said = " ".join(report.notes(facts))
    for words in ("6.67 times as fast", "128 is 72", "counted by an estimate", "X, the first: why"):
        assert words in said


def test_the_published_checks_are_told() -> None:
    lines: list[str] = []
    report.checks(published.reproduce(), lines.append)
    assert lines[0].endswith("differs")
    assert "0.33 requests/s would be 3030 ms" in " ".join(line.strip() for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.0123, "0.012"), (9.999, "9.999"), (12.34, "12.3")])
def test_seconds(value: float | None, shown: str) -> None:
    assert report.seconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (1.0, "100 %"), (0.9996, "99.9 %"), (0.0, "0.0 %")])
def test_a_share_is_whole_only_if_it_is(value: float | None, shown: str) -> None:
    assert report.share(value) == shown
