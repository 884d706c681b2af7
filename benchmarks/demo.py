"""The main job: train the Fashion-MNIST CNN with NGOptimizer as it comes, and with AdamW and Muon at their best.

    python -m benchmarks.demo
    python -m benchmarks.demo --dataset digits        # needs no download
    python -m benchmarks.demo --publish               # trains nothing; puts the last demo into docs/

The rivals get the best settings that `benchmarks.baseline_grid` found. All three start from the same weights, see the
same batches, and take turns of 50 steps, so that whatever else the machine does meets them all alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.baseline_grid import best_settings, grid_path
from benchmarks.common.plots import loss_curves
from benchmarks.common.results import new_results, read_results, write_results, write_text
from benchmarks.common.rivals import make_rival
from benchmarks.common.training import (
    Run,
    Steps,
    batch_order,
    fastest_threads,
    final_loss,
    mean_loss,
    running_mean,
    seed_everything,
    steps_to,
)
from benchmarks.models import fm16
from benchmarks.report import markdown_table, publish
from meta_train.data import DATASETS, Split, load, prepare
from ngopt.command import run_command
from ngopt.files import locked

NGOPT = "NGOptimizer"
NAMES = ("AdamW", "Muon", NGOPT)
TURN = 50  # steps
BATCH = 128


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and write table, picture, logs and results."""
    arguments = _parse(argv)
    if arguments.publish:
        publish(arguments.out)
        print(f"docs/benchmarks.md now shows {arguments.out / 'results.json'}.")
        return
    with locked(arguments.out):
        _train_all(arguments, ["python", "-m", "benchmarks.demo", *(sys.argv[1:] if argv is None else argv)])


def _train_all(arguments: argparse.Namespace, command: list[str]) -> None:
    split = prepare(load(arguments.dataset))
    split = Split(*(t.to(arguments.device) for t in vars(split).values()))
    seed_everything(0)
    torch.set_num_threads(fastest_threads(fm16(split.train_x.shape[1]).to(arguments.device), split, BATCH))
    tuned, source = tuned_settings(arguments.dataset)
    settings = {
        "dataset": arguments.dataset,
        "model": "fm16",
        "steps": arguments.steps,
        "batch_size": BATCH,
        "seeds": arguments.seeds,
        "device": arguments.device,
        "rivals": tuned,
        "rivals_from": source,
    }
    results = new_results(command, settings)
    losses: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    for seed in range(arguments.seeds):
        runs = train_in_turns(seed, split, arguments.steps, tuned)
        for name, run in runs.items():
            losses[name].append(run.losses)
            results["rows"].append(summary(name, seed, run))
            _log(arguments.out / "tensorboard" / f"{name}-seed{seed}", run, results["rows"][-1])
    _add_steps_to_target(results["rows"], losses)
    _write(arguments.out, results, losses)
    print("\n" + markdown_table(results))
    print(f"\nPicture: {arguments.out / 'loss.png'}\nLogs:    tensorboard --logdir {arguments.out / 'tensorboard'}")


def train_in_turns(seed: int, split: Split, steps: int, tuned: dict[str, dict[str, Any]]) -> dict[str, Run]:
    """Train one network per optimizer, all from the same start, in turns of some steps."""
    order = batch_order(len(split.train_y), BATCH, steps, seed)
    runs = {}
    for name in NAMES:
        seed_everything(seed)
        model = fm16(split.train_x.shape[1]).to(split.train_x.device)
        runs[name] = Run(model, make_optimizer(name, model, steps, tuned), split, order)
    bars = {name: tqdm(total=steps, desc=f"seed {seed} {name:11}", position=i) for i, name in enumerate(NAMES)}
    while not all(run.done for run in runs.values()):
        for name, run in runs.items():
            before = len(run.losses)
            run.advance(TURN)
            bars[name].set_postfix(loss=f"{final_loss(run.losses):.3f}", refresh=False)
            bars[name].update(len(run.losses) - before)
    for bar in bars.values():
        bar.close()
    return runs


def make_optimizer(name: str, model: nn.Module, steps: int, tuned: dict[str, dict[str, Any]]) -> Steps:
    """NGOptimizer at its defaults, or a rival at its best settings."""
    if name != NGOPT:
        return make_rival(name, model, steps, tuned[name])
    import ngopt

    return ngopt.NGOptimizer(model, total_steps=steps)


def tuned_settings(dataset: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Best settings of the rivals, and the name of the grid that they are from: the data set's, or Fashion-MNIST's."""
    path = next((p for p in (grid_path(dataset), grid_path("fashion-mnist")) if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"There is no {grid_path(dataset).name}. Run python -m benchmarks.baseline_grid first.")
    grid = read_results(path)
    return {name: best_settings(grid, name) for name in NAMES if name != NGOPT}, path.name


def summary(name: str, seed: int, run: Run) -> dict[str, Any]:
    """One row of the results."""
    return {
        "optimizer": name,
        "seed": seed,
        "accuracy": round(run.accuracy(), 3),
        "mean_loss": round(mean_loss(run.losses), 5),
        "final_loss": round(final_loss(run.losses), 5),
        "seconds": round(run.seconds, 2),
    }


def _add_steps_to_target(rows: list[dict[str, Any]], losses: dict[str, list[list[float]]]) -> None:
    """Add when each run first had the loss that AdamW, in the mean of its seeds, ended with."""
    ends = [row["final_loss"] for row in rows if row["optimizer"] == "AdamW"]
    target = sum(ends) / len(ends)
    for row in rows:
        row["steps_to_adamw"] = steps_to(losses[row["optimizer"]][row["seed"]], target)


def _log(folder: Path, run: Run, row: dict[str, Any]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for old in folder.glob("events.*"):  # of a demo before this one
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        smooth = running_mean(run.losses)
        for step, loss in enumerate(run.losses, 1):
            writer.add_scalar("loss/batch", loss, step)
        for step, loss in enumerate(smooth, len(run.losses) - len(smooth) + 1):
            writer.add_scalar("loss/smooth", loss, step)
        writer.add_scalar("accuracy/test", row["accuracy"], len(run.losses))


def _write(out: Path, results: dict[str, Any], losses: dict[str, list[list[float]]]) -> None:
    settings = results["settings"]
    accuracies = {n: [row["accuracy"] for row in results["rows"] if row["optimizer"] == n] for n in losses}
    title = f"{settings['dataset']}, {settings['model']}, batch {BATCH}, {settings['steps']} steps"
    loss_curves(losses, accuracies, out / "loss.png", title)
    rounded = {name: [[round(loss, 4) for loss in run] for run in runs] for name, runs in losses.items()}
    write_text(out / "losses.json", json.dumps(rounded))
    write_results(out / "results.json", results)
    write_text(out / "table.md", markdown_table(results) + "\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description="Train a CNN in three ways.")
    parser.add_argument("--dataset", choices=DATASETS, default="fashion-mnist")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder for what it makes; default: runs/demo-DATASET")
    parser.add_argument("--smoke", action="store_true", help="digits, 20 steps, 1 seed: does it run at all?")
    parser.add_argument(
        "--publish", action="store_true", help="put the last demo into docs/benchmarks.md and docs/images"
    )
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.dataset, arguments.steps, arguments.seeds = "digits", 20, 1
    if arguments.steps < 1 or arguments.seeds < 1:
        parser.error("--steps and --seeds must be at least 1")
    arguments.out = arguments.out or Path("runs") / f"demo-{arguments.dataset}"
    return arguments


if __name__ == "__main__":
    run_command(main)
