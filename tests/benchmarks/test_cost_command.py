"""What the commands of `benchmarks.cost` share: rows and pages, and nothing kept that was only tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.results import read_results
from benchmarks.cost import command, trace
from benchmarks.cost.command import Cost, Rows


def as_table(rows: Rows) -> str:
    return "\n".join(f"| {row['x']} |" for row in rows)


@pytest.fixture
def cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cost:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "benchmarks.md").write_text("<!-- table: some_cost -->\n<!-- end of table: some_cost -->\n")
    return Cost("some", as_table)


def run(cost: Cost, *arguments: str) -> str:
    """Measure 1 and 2, and give back the page."""
    options = cost.parser("What it costs.").parse_args(arguments)
    results = cost.new(arguments, {})
    for x in (1, 2):
        results["rows"].append({"x": x})
        cost.keep(options, results)
    cost.report(options, None if options.report else results)
    return Path("docs", "benchmarks.md").read_text()


def test_rows_and_pages(cost: Cost, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "| 1 |\n| 2 |" in run(cost)
    kept = read_results(tmp_path / "some_cost.json")
    assert kept["rows"] == [{"x": 1}, {"x": 2}] and kept["command"] == "python -m benchmarks.cost.some"
    capsys.readouterr()
    run(cost, "--report")
    assert capsys.readouterr().out == "| 1 |\n| 2 |\n"


@pytest.mark.parametrize("arguments", [["--smoke"], ["--output", "other.json"], ["--smoke", "--output", "other.json"]])
def test_other_rows_change_no_page(cost: Cost, tmp_path: Path, arguments: list[str]) -> None:
    assert "| 1 |" not in run(cost, *arguments)
    assert not (tmp_path / "some_cost.json").exists()
    assert (tmp_path / "other.json").exists() == ("--output" in arguments)


def test_what_was_kept_before_a_kill_is_there(cost: Cost, tmp_path: Path) -> None:
    options = cost.parser("What it costs.").parse_args([])
    results = cost.new([], {})
    results["rows"].append({"x": 1})
    cost.keep(options, results)
    assert read_results(tmp_path / "some_cost.json")["rows"] == [{"x": 1}]


def test_tracing_is_measured_in_cpu_time() -> None:
    row = trace.measured("mlp")
    assert row["certified"] and row["parameters"] == 1_043_242 and 0 < row["cpu_seconds"]
    assert trace.table([row]).splitlines()[2].startswith("| mlp | 1,043,242 |")
