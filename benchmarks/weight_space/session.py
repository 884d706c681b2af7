"""From settings to stored rows: networks, task, graph and model of each run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import ngopt
from benchmarks.common.results import write_text
from benchmarks.inr_data.dataset import InrSet
from benchmarks.inr_data.siren import Siren, coordinates
from benchmarks.weight_space.config import Config
from benchmarks.weight_space.folder import claim
from benchmarks.weight_space.inrs import load_or_fit
from benchmarks.weight_space.models import build_model
from benchmarks.weight_space.rows import make_row, result_path, store
from benchmarks.weight_space.tasks import make_task
from benchmarks.weight_space.train import Trainer
from ngopt.graph.neural_graph import NeuralGraph

ROW = "row.json"


def run_all(configs: Sequence[Config], command: Sequence[str], *, out: Path, results: Path, root: Path | None) -> None:
    """Run all settings, which differ in their seeds alone, one after the other; rows are stored as they come."""
    first = configs[0]
    torch.set_num_threads(first.threads)
    sets = load_or_fit(first.dataset, first.size, root)
    path = result_path(first.suite, first.dataset, first.size, results)
    for config in configs:
        folder = run_folder(out, config)
        row = finished_row(folder, config)
        if row is None:
            row = make_row(config, make_trainer(config, sets, folder).run(), command)
            write_text(folder / ROW, json.dumps(row) + "\n")
        store(path, row, config.suite, config.dataset, config.size)
        tqdm.write(f"{folder}: " + ", ".join(f"test {name} {value:.5g}" for name, value in row["test"].items()))
    tqdm.write(f"Rows: {path}\nLogs: tensorboard --logdir {run_folder(out, first).parent}")


def run_folder(out: Path, config: Config) -> Path:
    """Where a run keeps settings, checkpoint, best model and logs."""
    return out / config.suite / f"{config.dataset}-{config.size}" / config.slug()


def finished_row(folder: Path, config: Config) -> dict[str, Any] | None:
    """The row of a run that has ended, so that it is neither trained nor tested again."""
    if not (folder / ROW).is_file():
        return None
    claim(folder, config)
    return json.loads((folder / ROW).read_text(encoding="utf-8"))


def make_trainer(config: Config, sets: Mapping[str, InrSet], folder: Path) -> Trainer:
    """Everything that a run needs, ready to go on where it was."""
    task, (graph, siren, example) = make_task(config, sets), inr_graph(sets["train"])
    splits = {name: task.samples(inrs) for name, inrs in sets.items()}
    for name, samples in splits.items():
        if samples.left_out:
            tqdm.write(f"Left out of {name}: networks {list(samples.left_out)}, whose weights are not finite.")
    return Trainer(config, task, graph, splits, build_model(config, graph, task, siren, example), folder)


def inr_graph(inrs: InrSet) -> tuple[NeuralGraph, Siren, Tensor]:
    """The graph that all networks of a set share, their architecture, and an input of it."""
    model, example = Siren(inrs.channels, omega=inrs.omega), coordinates(inrs.height, inrs.width)
    return ngopt.trace(model, (example,), scalings=True), model, example
