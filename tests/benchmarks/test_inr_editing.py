"""python -m benchmarks.inr_editing, and its picture, from end to end in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.results import read_results
from benchmarks.inr_editing import picture
from benchmarks.weight_space.cli import main
from benchmarks.weight_space.suites import SUITES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
RESULTS = "results/inr_editing_digits_smoke.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first command puts the networks that it fits, and the others find them."""
    return tmp_path_factory.mktemp("data")


def run(root: Path, out: Path, *words: str) -> None:
    main("inr_editing", ["--dataset", "digits", "--smoke", "--data-root", str(root), "--out", str(out), *words])


@pytest.mark.parametrize("encoder", SUITES["inr_editing"].encoders)
def test_command_and_picture(encoder: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root, tmp_path, "--task", "dilation", "--encoder", encoder)
    (row,) = read_results(tmp_path / RESULTS)["rows"]
    assert (row["task"], row["encoder"], row["variant"]) == ("dilation", encoder, "")
    assert row["test"].keys() == {"mse", "psnr", "mse_of_doing_nothing"}
    assert row["test"]["mse"] < 2 * row["test"]["mse_of_doing_nothing"]  # edits start small
    folder = tmp_path / "inr_editing" / "digits-smoke" / f"dilation-{encoder}-seed0"
    capsys.readouterr()
    picture.main([str(folder), "--data-root", str(root), "--out", str(tmp_path / "edit.png"), "--count", "4"])
    assert (tmp_path / "edit.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "edit.png") in capsys.readouterr().out


@pytest.mark.parametrize("task", ["erosion", "contrast"])
def test_tasks_share_a_result_file(task: str, root: Path, tmp_path: Path) -> None:
    run(root, tmp_path, "--task", task, "--encoder", "mlp")
    run(root, tmp_path, "--task", "dilation", "--encoder", "mlp", "--lr", "0.01")
    rows = read_results(tmp_path / RESULTS)["rows"]
    assert sorted((row["task"], row["variant"]) for row in rows) == sorted([(task, ""), ("dilation", "lr=0.01")])


def test_doing_nothing_depends_on_the_task_alone(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path, "--task", "dilation", "--encoder", "mlp", "--seed", "0", "1")
    one, two = (row["test"] for row in read_results(tmp_path / RESULTS)["rows"])
    assert one["mse_of_doing_nothing"] == pytest.approx(two["mse_of_doing_nothing"])
    assert one["mse"] != two["mse"]


def test_a_picture_needs_a_run_that_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        picture.main([str(tmp_path)])
    assert "name the run directory of a run that has ended" in capsys.readouterr().err
