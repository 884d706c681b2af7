"""The notebooks of the documentation run, cell after cell, and print what is stored in them."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?%?")


def cells_of(path: Path) -> list[tuple[str, str]]:
    """Code, and what it printed when the notebook was made."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [("".join(c["source"]), "".join("".join(o.get("text", [])) for o in c["outputs"])) for c in code]


def value(number: str) -> float:
    return float(number.rstrip("%").replace(",", "")) / (100 if number.endswith("%") else 1)


def is_alike(stored: str, printed: str) -> bool:
    """The same words, and numbers that differ by three points or a tenth: other machines round in another way."""
    pairs = zip(NUMBER.findall(stored), NUMBER.findall(printed), strict=False)
    close = all(value(b) == pytest.approx(value(a), rel=0.1, abs=0.03) for a, b in pairs)
    return NUMBER.sub("#", stored) == NUMBER.sub("#", printed) and close


def test_what_is_alike() -> None:
    stored = "of 1,000 networks 91.0% read, loss 0.006, difference 9.5e-07"
    assert is_alike(stored, "of 1,000 networks 93.5% read, loss 0.002, difference 2.1e-06")
    for other in (stored.replace("91.0", "81.0"), stored.replace("1,000", "2,000"), stored.replace("read", "known")):
        assert not is_alike(stored, other)


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
    for number, (source, stored) in enumerate(cells_of(path)):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(source, f"{path.name}[{number}]", "exec"), names)
        assert is_alike(stored, printed.getvalue()), f"run the notebook anew: cell {number}, {printed.getvalue()}"
    plt.close("all")
    if path.stem == "replace_adamw":
        runs = names["runs"]
        assert isinstance(runs, dict) and runs["NGOptimizer"][1] > 0.9
    else:
        accuracy, classes = names["accuracy"], names["classes"]
        assert isinstance(accuracy, float) and isinstance(classes, int)
        assert accuracy > 2.5 / classes
