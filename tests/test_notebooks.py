"""The notebooks of the documentation run, cell after cell, and still show what they promise."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def code_of(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_there_are_two_and_their_outputs_are_stored() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["read_networks", "replace_adamw"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert any(cell.get("outputs") for cell in cells)
        assert path.stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": path.stem}
    for number, source in enumerate(code_of(path)):
        exec(compile(source, f"{path.name}[{number}]", "exec"), names)
    plt.close("all")
    if path.stem == "replace_adamw":
        runs = names["runs"]
        assert isinstance(runs, dict) and runs["NGOptimizer"][1] > 0.9
    else:
        accuracy, classes = names["accuracy"], names["classes"]
        assert isinstance(accuracy, float) and isinstance(classes, int)
        assert accuracy > 2.5 / classes
