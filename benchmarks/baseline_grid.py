"""Tune the rivals on a stated grid, by accuracy on training images that were held out; the test set stays unseen.

    python -m benchmarks.baseline_grid --dataset fashion-mnist --model fm16

Every point of the grid is trained with one seed, then the best three of each optimizer with two more. Rows are written
as they come, so that the command can be stopped and goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.common.results import RESULTS, new_results, put_row, read_results
from benchmarks.common.rivals import WARMUP, make_rival
from benchmarks.common.training import Run, batch_order, final_loss, mean_loss, seed_everything
from benchmarks.models import MODELS
from meta_train.data import DATASETS, Split, load, prepare
from ngopt.command import run_command

GRID: dict[str, list[dict[str, Any]]] = {
    "AdamW": [
        {"lr": lr, "weight_decay": weight_decay, "beta2": beta2}
        for lr, weight_decay, beta2 in itertools.product(
            (0.005, 0.01, 0.02, 0.03, 0.05, 0.08), (0.0, 0.01), (0.99, 0.999)
        )
    ],
    "Muon": [
        {"lr": lr, "adam_lr": adam_lr, "momentum": momentum}
        for (lr, adam_lr), momentum in itertools.product(
            ((0.05, 0.01), (0.1, 0.01), (0.1, 0.02), (0.2, 0.02)), (0.9, 0.95)
        )
    ],
}
FINALISTS = 3
HOLDOUT = 10_000


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing of the grid, then print the best settings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baseline_grid", description="Tune the rivals.")
    parser.add_argument("--dataset", choices=DATASETS, default="fashion-mnist")
    parser.add_argument("--model", choices=list(MODELS), default="fm16")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/baseline_grid_DATASET.json")
    arguments = parser.parse_args(argv)
    path = arguments.out or grid_path(arguments.dataset)
    dataset = load(arguments.dataset)
    holdout = min(HOLDOUT, len(dataset.train_labels) // 6)
    settings = {
        "dataset": arguments.dataset,
        "model": arguments.model,
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "schedule": f"{WARMUP} steps of warm-up, linear decay to 0",
        "holdout": f"the last {holdout} training images",
        "device": arguments.device,
    }
    results = new_results(
        ["python", "-m", "benchmarks.baseline_grid", *(argv if argv is not None else sys.argv[1:])], settings
    )
    if path.is_file():
        results["rows"] = (before := read_results(path))["rows"]
        if before["settings"] != settings:
            parser.error(f"{path} holds rows of other settings: {before['settings']}. Move it away, or name --out.")
    split = Split(*(t.to(arguments.device) for t in vars(prepare(dataset, holdout=holdout)).values()))
    for name, points in GRID.items():
        _run_missing(name, points, (0,), results, split, path)
        _run_missing(name, ranked(results, name)[:FINALISTS], (1, 2), results, split, path)
        print(f"{name}: {best_settings(results, name)}")


def grid_path(dataset: str) -> Path:
    """Where the grid of a data set is kept."""
    return RESULTS / f"baseline_grid_{dataset}.json"


def ranked(results: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Settings of one optimizer by the accuracy of its first seed, best first."""
    rows = [row for row in results["rows"] if row["optimizer"] == name and row["seed"] == 0]
    return [row["settings"] for row in sorted(rows, key=lambda row: -row["accuracy"])]


def best_settings(results: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings with the highest mean accuracy, among those that were trained with most seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        if row["optimizer"] == name:
            groups.setdefault(repr(row["settings"]), []).append(row)
    if not groups:
        raise ValueError(f"The grid has no rows of {name}.")
    most = max(len(rows) for rows in groups.values())
    finalists = [rows for rows in groups.values() if len(rows) == most]
    return max(finalists, key=lambda rows: sum(row["accuracy"] for row in rows))[0]["settings"]


def _run_missing(
    name: str,
    points: list[dict[str, Any]],
    seeds: tuple[int, ...],
    results: dict[str, Any],
    split: Split,
    path: Path,
) -> None:
    done = [(row["optimizer"], row["settings"], row["seed"]) for row in results["rows"]]
    todo = [(point, seed) for seed in seeds for point in points if (name, point, seed) not in done]
    for point, seed in tqdm(todo, desc=name, disable=not todo):
        row = {"optimizer": name, "settings": point, "seed": seed}
        row |= _train(name, point, seed, results["settings"], split)
        results["rows"].append(row)
        put_row(path, row, ("optimizer", "settings", "seed"), results["settings"], results["command"].split())


def _train(name: str, point: dict[str, Any], seed: int, settings: dict[str, Any], split: Split) -> dict[str, Any]:
    seed_everything(seed)
    steps = settings["steps"]
    model = MODELS[settings["model"]](split.train_x.shape[1]).to(split.train_x.device)
    order = batch_order(len(split.train_y), settings["batch_size"], steps, seed)
    run = Run(model, make_rival(name, model, steps, point), split, order)
    run.advance(steps)
    return {
        "accuracy": round(run.accuracy(), 3),
        "mean_loss": round(mean_loss(run.losses), 5),
        "final_loss": round(final_loss(run.losses), 5),
        "seconds": round(run.seconds, 2),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    run_command(main)
