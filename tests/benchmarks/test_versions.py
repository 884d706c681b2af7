"""Environments of the oldest and the newest versions: what is installed, and what becomes of the outcome."""

from __future__ import annotations

from pathlib import Path

from benchmarks import versions
from benchmarks.common.results import read_results

PYPROJECT = (versions.ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_floor_is_installed_as_it_is_written() -> None:
    oldest = versions.requirements("oldest", PYPROJECT)
    names = {line.split("==")[0] for line in oldest}
    assert {"torch", "numpy", "einops", "safetensors", "torch_geometric", "tensorboard", "tqdm", "matplotlib"} <= names
    assert "torch==2.6" in oldest and "pytest" not in names
    assert set(versions.requirements("newest", PYPROJECT)) == names


def test_rows_are_kept_by_version_and_shown_in_their_order(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: versions -->\n<!-- end of table: versions -->\nafter\n", encoding="utf-8")
    for torch, passed in (("2.14.1", 5), ("2.6.0", 3), ("2.6.0", 4)):
        row = {"which": "oldest", "versions": {name: "1.0" for name in (*versions.SHOWN, "python")} | {"torch": torch}}
        versions.keep(
            tmp_path / "versions.json",
            row | {"date": "2026-01-02", "tests": ["tests/graph"], "counts": {"passed": passed}},
            page,
        )
    assert [row["counts"]["passed"] for row in read_results(tmp_path / "versions.json")["rows"]] == [4, 5]
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and len(lines) == 8
    assert "2.6.0" in lines[4] and "4 passed" in lines[4] and "2.14.1" in lines[5]
