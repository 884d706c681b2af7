"""The demo and the grid run from end to end in small, and their numbers reach the documentation unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import baseline_grid, demo, report
from benchmarks.common.results import new_results, put_row, read_results, write_results, write_text
from ngopt.errors import FolderInUseError
from ngopt.files import locked

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


@pytest.fixture(autouse=True)
def one_thread():
    """The demo chooses a number of threads; other tests keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def row(name: str, seed: int, **values: Any) -> dict[str, Any]:
    base = {"accuracy": 80.0, "mean_loss": 0.5, "final_loss": 0.4, "seconds": 10.0, "steps_to_adamw": 900}
    return {"optimizer": name, "seed": seed, **base, **values}


@pytest.fixture
def finished() -> dict[str, Any]:
    tuned = {"AdamW": {"lr": 0.02, "weight_decay": 0.0}, "Muon": {"lr": 0.1, "adam_lr": 0.02}}
    settings = {"dataset": "digits", "steps": 1000, "batch_size": 128, "seeds": 2}
    results = new_results(
        ["python", "-m", "benchmarks.demo"], {**settings, "rivals": tuned, "rivals_from": "baseline_grid_digits.json"}
    )
    results["rows"] = [
        row("AdamW", 0, accuracy=80.0),
        row("AdamW", 1, accuracy=82.0, steps_to_adamw=None),
        row("NGOptimizer", 0, accuracy=90.0, seconds=12.0, steps_to_adamw=400),
        row("NGOptimizer", 1, accuracy=90.0, seconds=13.0, steps_to_adamw=500),
    ]
    return results


def test_demo_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main(["--smoke", "--out", str(tmp_path)])
    results = read_results(tmp_path / "results.json")
    assert [r["optimizer"] for r in results["rows"]] == list(demo.NAMES)
    losses = json.loads((tmp_path / "losses.json").read_text())
    starts = {name: runs[0][0] for name, runs in losses.items()}
    assert len(set(starts.values())) == 1  # the same weights and the same batch
    assert all(len(runs[0]) == 20 for runs in losses.values())
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {p.parent.name for p in (tmp_path / "tensorboard").rglob("events.*")} == {
        f"{name}-seed0" for name in demo.NAMES
    }
    printed = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text().strip() in printed


def test_table(finished: dict[str, Any]) -> None:
    lines = report.markdown_table(finished).splitlines()
    assert lines[2] == (
        "| AdamW, tuned: lr 0.02, weight_decay 0 | 81.0 ± 1.4 | 0.500 | 0.400 | 900 (1 of 2 runs) | 10.0 | 1.00x |"
    )
    assert lines[3] == "| NGOptimizer, defaults | 90.0 ± 0.0 | 0.500 | 0.400 | 450 | 12.5 | 1.25x |"
    assert "`python -m benchmarks.demo`" in lines[-1]


def test_the_page_takes_the_last_demo(finished: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.demo first"):
        report.publish(out, tmp_path)
    write_results(out / "results.json", finished)
    (out / "loss.png").write_bytes(b"picture")
    page = tmp_path / report.PAGE
    write_text(page, "before\n<!-- table: demo -->\nold\n<!-- end of table: demo -->\nafter\n")
    for _ in range(2):  # again changes nothing
        report.publish(out, tmp_path)
        text = page.read_text()
        assert report.markdown_table(finished) in text
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
    assert (tmp_path / report.PICTURE).read_bytes() == b"picture"
    assert read_results(tmp_path / "benchmarks" / "results" / "demo_digits.json") == finished


def test_the_page_shows_the_committed_results() -> None:
    """The numbers there are those of the result file beside the code, to the letter."""
    text = (report.ROOT / report.PAGE).read_text(encoding="utf-8")
    shown = text.split("<!-- table: demo -->")[1].split("<!-- end of table: demo -->")[0]
    assert report.markdown_table(read_results(report.RESULTS / "demo_fashion-mnist.json")) in shown


def test_steps_to_target_uses_the_mean_of_adamw(finished: dict[str, Any]) -> None:
    rows = finished["rows"]
    rows[0]["final_loss"], rows[1]["final_loss"] = 0.3, 0.5
    falling = [1.0 - i / 100 for i in range(100)]  # the mean of 50 is 0.4 when the middle step is
    demo._add_steps_to_target(rows, {"AdamW": [falling, [0.5] * 100], "NGOptimizer": [falling, [0.1] * 100]})
    assert [r["steps_to_adamw"] for r in rows] == [86, None, 86, 50]


GRID = {"AdamW": [{"lr": 0.001}, {"lr": 0.02}], "Muon": [{"lr": 0.1, "adam_lr": 0.02}]}


def test_grid_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_grid, "GRID", GRID)
    monkeypatch.setattr(baseline_grid, "FINALISTS", 1)
    path = tmp_path / "grid.json"
    command = ["--dataset", "digits", "--steps", "12", "--out", str(path)]
    trained = []
    real = baseline_grid._train

    def counted(name: str, point: dict, seed: int, *rest: Any) -> dict[str, Any]:
        trained.append((name, point, seed))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return real(name, point, seed, *rest)

    monkeypatch.setattr(baseline_grid, "_train", counted)
    with pytest.raises(KeyboardInterrupt):
        baseline_grid.main(command)
    assert len(read_results(path)["rows"]) == 2
    baseline_grid.main(command)
    results = read_results(path)
    assert len(trained) == 1 + len(results["rows"]) == 1 + 3 + 2 * 2  # the interrupted one twice, all others once
    with pytest.raises(SystemExit):
        baseline_grid.main([*command, "--batch-size", "64"])


def test_two_grids_at_once_keep_each_other_s_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_grid, "GRID", {"AdamW": GRID["AdamW"]})
    path = tmp_path / "grid.json"
    of_another = {"optimizer": "Muon", "settings": {"lr": 0.2}, "seed": 0, "accuracy": 50.0}

    def beside(name: str, point: dict, seed: int, settings: dict, split: Any) -> dict[str, Any]:
        put_row(path, of_another, ("optimizer", "settings", "seed"), settings, ["another"])
        return {"accuracy": 90.0}

    monkeypatch.setattr(baseline_grid, "_train", beside)
    baseline_grid.main(["--dataset", "digits", "--steps", "12", "--out", str(path)])
    rows = read_results(path)["rows"]
    assert len(rows) == 1 + 2 * 3 and of_another in rows


def test_a_demo_does_not_write_into_that_of_another(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(FolderInUseError, match="in use by process"):
        demo.main(["--smoke", "--out", str(tmp_path)])


def test_best_settings_are_chosen_among_those_with_most_seeds() -> None:
    lucky, steady = {"lr": 1.0}, {"lr": 2.0}
    rows = [row("AdamW", 0, settings=lucky, accuracy=99.0)]
    rows += [row("AdamW", seed, settings=steady, accuracy=90.0) for seed in range(3)]
    assert baseline_grid.best_settings({"rows": rows}, "AdamW") == steady
    with pytest.raises(ValueError, match="no rows of Muon"):
        baseline_grid.best_settings({"rows": rows}, "Muon")
