"""Result files that many write, and the tables and pictures that are made from them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import pages
from benchmarks.common.results import read_results
from benchmarks.weight_space import report
from benchmarks.weight_space.cli import make_parser, read_configs
from benchmarks.weight_space.config import Config, configure
from benchmarks.weight_space.rows import make_row, result_path, store
from benchmarks.weight_space.suites import SUITES
from benchmarks.weight_space.summary import headline, summary
from benchmarks.weight_space.tables import command_of, suite_page


def run(encoder: str, seed: int = 0, *, value: float = 90.0, **values: Any) -> tuple[Config, dict[str, Any]]:
    """Settings and row of a classification."""
    base = {"suite": "inr_classification", "task": "classify", "dataset": "mnist", "size": "small"}
    config = configure(**(base | {"encoder": encoder, "seed": seed} | values))
    metric = "accuracy" if config.suite == "inr_classification" else "mse"
    measures = {metric: value, "psnr": 20.0, "mse_of_doing_nothing": 0.5}
    outcome = {
        "test": measures,
        "val": {metric: value + 1},
        "parameters": 12345,
        "networks_per_second": 100.0,
        "reads": 2000 * config.epochs,
        "steps": 32 * config.epochs,
        "cpu_seconds": 16.0,
        "networks_per_cpu_second": 125.0 * config.epochs,
        "networks": {"train": 2000, "val": 500, "test": 500},
        "history": [{"epoch": e, "train_loss": 1.0, f"val_{metric}": value + e} for e in (1, 2)],
    }
    return config, make_row(config, outcome, ["python", "typed"])


def put(folder: Path, config: Config, row: dict[str, Any]) -> Path:
    path = result_path(config.suite, config.dataset, config.size, folder)
    store(path, row, config)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = tmp_path / "results"
    put(results, *run("ng_t", 0, value=90.0))
    put(results, *run("ng_t", 1, value=92.0))
    put(results, *run("ng_t", 0, value=95.0, probes=64))
    put(results, *run("ng_gnn", 0, value=80.0, faithful=True, epochs=3))
    put(results, *run("mlp", 0, value=17.5, epochs=7))
    put(results, *run("mlp", 0, value=3.0, size="smoke"))
    put(results, *run("ng_t", 0, value=0.0123, suite="inr_editing", task="dilation"))
    return results


def test_rows_are_replaced_by_key(tmp_path: Path) -> None:
    path = put(tmp_path, *run("ng_t", 0, value=1.0))
    for encoder, seed, value in (("ng_t", 1, 2.0), ("mlp", 0, 3.0), ("ng_t", 0, 4.0)):
        put(tmp_path, *run(encoder, seed, value=value))
    rows = read_results(path)["rows"]
    assert [(r["encoder"], r["seed"], r["test"]["accuracy"]) for r in rows] == [
        ("ng_t", 0, 4.0),
        ("ng_t", 1, 2.0),
        ("mlp", 0, 3.0),
    ]
    assert rows[0]["command"] == "python typed"
    assert rows[0]["config"]["encoder"] == "ng_t"
    assert {"torch", "python"} <= rows[0]["versions"].keys()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no lock is left


def test_many_can_write_at_once(tmp_path: Path) -> None:
    threads = [threading.Thread(target=put, args=(tmp_path, *run("ng_t", seed))) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = tmp_path.iterdir()
    assert [row["seed"] for row in read_results(path)["rows"]] == list(range(12))


def test_tables(folder: Path) -> None:
    page = suite_page("inr_classification", report.result_files("inr_classification", folder))
    alone, probes = page.split("**mnist, size small, with probes**")
    assert "**mnist, size small, weights alone**" in alone
    command = "python -m benchmarks.inr_classification --dataset mnist --size small --encoder ng_t"
    assert (
        f"| ng_t | 91.00 ± 1.41 | 92.00 ± 1.41 | 2 | 12,345 | 100,000 | 1,600 | 16 | 6,250 | `{command} --seed 0 1` |"
        in alone
    )
    assert "| ng_gnn faithful epochs=3 (undertrained: 6,000 of 100,000 reads) | 80.00 | 81.00 | 1 |" in alone
    assert "| mlp epochs=7 | 17.50 |" in alone
    assert "probes" not in alone
    assert "| ng_t probes=64 | 95.00 | 96.00 | 1 |" in probes
    assert f"| 6,250 | `{command} --probes 64 --seed 0` |" in probes
    assert "Not run (mnist, size small): neuron_flow, ng_gnn, ng_t faithful, mlp_aug, probe_mlp." in page
    sets = "mnist-dws, mnist-nfn, fashion-mnist-dws, fashion-mnist-nfn, cifar10-dws, cifar10-nfn"
    assert f"Not run at all: {sets}." in page
    assert "3.00" not in page  # size smoke
    assert "†" not in page


def test_rows_of_other_files_are_marked(tmp_path: Path) -> None:
    """Numbers of zoos that were made on two machines stand in one table, and are not the same question."""
    for encoder, networks in (("mlp", "a"), ("ng_t", "b"), ("ng_gnn", "b")):
        config, row = run(encoder)
        put(tmp_path, config, row | {"networks_sha256": networks, "created": f"2026-01-01T00:00:0{len(encoder)}"})
    page = suite_page("inr_classification", report.result_files("inr_classification", tmp_path))
    assert "| mlp † |" in page and "| ng_t |" in page and "| ng_gnn |" in page
    assert "† read other files of networks" in page


def test_tables_of_editing(folder: Path) -> None:
    page = suite_page("inr_editing", report.result_files("inr_editing", folder))
    assert "| ng_t | 0.01230 | 20.00 | 0.50000 | 1.01230 | 1 |" in page
    assert "--task dilation" in page
    assert "Not run (dilation, mnist, size small): neuron_flow, ng_gnn, ng_gnn faithful, ng_t faithful, mlp" in page
    assert "Not run at all: dilation on mnist-dws, erosion on mnist-dws, contrast on cifar10-nfn." in page


def test_the_summary_has_the_best_read_run_of_each(folder: Path) -> None:
    put(folder, *run("ng_t", 0, value=99.0, epochs=3))  # better, but not read as much
    put(folder, *run("ng_t", 0, value=99.0, sign=False))  # leaves something out
    put(folder, *run("mlp_aug", 0, value=21.5))
    page = summary({suite: report.result_files(suite, folder) for suite in SUITES})
    head, _, first, second, *_ = page.splitlines()
    assert head.split(" | ")[1:] == ["NG-T", "NG-GNN or NG-T, as published", "best baseline that knows no graph |"]
    assert first.endswith("| 91.00 ± 1.41 [100k] | 80.00 [6k] | 21.50 [100k] |")
    assert second.endswith("| 0.01230 [10k] |  |  |")
    assert "smoke" not in page and "95.00" not in page  # that one also runs the networks
    put(folder, *run("ng_t", 0, value=93.5, size="medium"))
    page = summary({suite: report.result_files(suite, folder) for suite in SUITES})
    assert "mnist (medium)" in page and "mnist (small): test acc" not in page and "91.00" not in page


def test_the_headline_has_the_best_of_both_kinds(folder: Path) -> None:
    assert headline({suite: report.result_files(suite, folder) for suite in SUITES}) == ""  # no set of README
    for encoder, value in (("neuron_flow", 98.0), ("ng_t", 95.0), ("mlp", 17.0)):
        put(folder, *run(encoder, value=value, dataset="mnist-dws"))
    put(folder, *run("neuron_flow", value=99.0, dataset="mnist-dws", probes=64))  # runs the networks, too
    put(folder, *run("neuron_flow", value=87.0, dataset="fashion-mnist-dws"))
    page = headline({suite: report.result_files(suite, folder) for suite in SUITES})
    _, _, mnist, fashion = page.splitlines()
    assert mnist.endswith("| 98.00 | 17.00 |") and fashion.endswith("| 87.00 | not run |")


def test_a_report_without_results_names_everything() -> None:
    assert suite_page("inr_classification", []).startswith("Not run at all: mnist-dws, mnist-nfn, fashion-mnist-dws, ")


@pytest.mark.parametrize(
    "values",
    [
        {"encoder": "ng_gnn", "faithful": True, "options": {"width": 16, "layers": 2}, "lr": 0.01},
        {"encoder": "mlp_aug", "augment": False, "device": "cuda", "flip": False},
        {"encoder": "ng_t", "suite": "inr_editing", "task": "erosion", "copies": 4, "precision": "bf16"},
    ],
)
def test_the_command_of_a_row_makes_the_row(values: dict[str, Any]) -> None:
    config, row = run(**values)
    words = command_of([row]).split()
    assert words[:3] == ["python", "-m", f"benchmarks.{config.suite}"]
    assert read_configs(config.suite, vars(make_parser(config.suite).parse_args(words[3:]))) == [config]


def test_report_fills_pages_and_draws(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, other, images = tmp_path / "page.md", tmp_path / "other.md", tmp_path / "images"
    begin, end = "<!-- table: inr_classification -->", "<!-- end of table: inr_classification -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    other.write_text("no place for tables\n")
    arguments = ["--results", str(folder), "--images", str(images), "--pages", str(page), str(other)]
    for _ in range(2):  # again changes nothing
        report.main(arguments)
        text = page.read_text()
        assert text.startswith(f"before\n{begin}\n**mnist")
        assert text.endswith(f"{end}\nafter\n")
        assert "old" not in text
    assert other.read_text() == "no place for tables\n"
    printed = capsys.readouterr().out
    for name in ("inr_classification_mnist_small.png", "inr_editing_dilation_mnist_small.png"):
        assert (images / name).read_bytes().startswith(b"\x89PNG")
        assert str(images / name) in printed


def test_half_a_place_is_refused() -> None:
    begin, end = "<!-- table: x -->", "<!-- end of table: x -->"
    for page in (begin, end, end + begin, begin * 2 + end):
        with pytest.raises(ValueError, match="once and in this order"):
            pages.fill(page, "x", "text")


def test_row_is_json(folder: Path) -> None:
    (path,) = folder.glob("inr_editing*")
    assert json.loads(path.read_text())["settings"] == {"suite": "inr_editing", "dataset": "mnist", "size": "small"}
