"""Result files: whole at any time, and with where they came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.common import results as module
from benchmarks.common.results import RESULTS, new_results, read_results, write_results, write_text


def test_round_trip(tmp_path: Path) -> None:
    results = new_results(["python", "-m", "benchmarks.demo"], {"steps": 3})
    for rows in ([], [{"seed": 0, "accuracy": 1.5}], [{"seed": 0}, {"seed": 1}]):
        results["rows"] = rows
        write_results(tmp_path / "deep" / "results.json", results)
        assert read_results(tmp_path / "deep" / "results.json") == results


def test_origin_is_recorded() -> None:
    results = new_results(["python", "-m", "benchmarks.demo"], {})
    assert results["command"] == "python -m benchmarks.demo"
    assert results["versions"]["torch"]
    assert results["machine"]["cores"]
    assert results["created"].endswith("+00:00")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(ValueError, match="schema 99, expected 1"):
        read_results(tmp_path / "a.json")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_committed_results_name_their_origin(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    results = json.loads(text)
    assert {"command", "versions", "machine"} <= set(results)
    assert str(Path.home()) not in text
