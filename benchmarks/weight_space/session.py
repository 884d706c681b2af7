"""From settings to stored rows: networks, task and model of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.common.manifests import digest
from benchmarks.weight_space.config import MLPS, Config
from benchmarks.weight_space.folder import claim
from benchmarks.weight_space.models import build_model
from benchmarks.weight_space.rows import make_row, result_path, store, store_scatter
from benchmarks.weight_space.samples import Samples, flat
from benchmarks.weight_space.suites import SUITES
from benchmarks.weight_space.tasks import Task
from benchmarks.weight_space.together import Team
from benchmarks.weight_space.train import Trainer
from ngopt.files import locked, read_json, write_json

ROW = "row.json"
NAMED = 5  # networks that are left out, as examples


@dataclass(frozen=True)
class Problem:
    """What a suite makes of its networks.

    Attributes:
        task: What is learned.
        splits: "train", "val", "test", and others to test on.
        module: The architecture, where there is one, and an input of it, which probes are run through.
        example: See ``module``.
    """

    task: Task
    splits: dict[str, Samples]
    module: nn.Module | None = None
    example: Tensor | None = None


def run_all(configs: Sequence[Config], command: Sequence[str], *, out: Path, results: Path, root: Path | None) -> None:
    """Run all settings, which differ in their seeds alone, one after the other; rows are stored as they come."""
    first = configs[0]
    torch.set_num_threads(first.threads)
    path = result_path(first.suite, first.dataset, first.size, results)
    problem, team = None, Team()
    for config in configs:
        folder = run_folder(out, config)
        with locked(folder) if team.first else nullcontext():
            row = finished_row(folder, config, root)
            if row is None:
                problem = problem or make_problem(config, load_networks(config, root))
                networks = networks_digest(config, root)
                if team.first:
                    claim(folder, config, networks)
                team.wait()  # nobody reads what is not there yet
                row = make_row(config, run(config, problem, folder, team) | {"networks_sha256": networks}, command)
            if not team.first:
                continue
            write_json(folder / ROW, row)
        store(path, row, config)
        store_scatter(path, row, config)
        tqdm.write(f"{folder}: " + ", ".join(f"test {name} {value:.5g}" for name, value in row["test"].items()))
    if team.first:
        tqdm.write(f"Rows: {path}\nLogs: tensorboard --logdir {run_folder(out, first).parent}")


def run(config: Config, problem: Problem, folder: Path, team: Team | None = None) -> dict[str, Any]:
    """Train and test; returns what is to be said about it."""
    if config.encoder == "statistics":
        return SUITES[config.suite].module.fit_trees(config, problem.task, problem.splits, folder)
    return trainer_of(config, problem, folder, team).run()


def run_folder(out: Path, config: Config) -> Path:
    """Where a run keeps settings, checkpoint, best model and logs."""
    return out / config.suite / f"{config.dataset}-{config.size}" / config.slug()


def finished_row(folder: Path, config: Config, root: Path | None) -> dict[str, Any] | None:
    """The row of a run that has ended, so that it is neither trained nor tested again."""
    if not (folder / ROW).is_file():
        return None
    claim(folder, config, networks_digest(config, root))
    return read_json(folder / ROW)


def networks_digest(config: Config, root: Path | None) -> str | None:
    """Which networks a run reads; None if there are none yet."""
    return digest(SUITES[config.suite].module.networks_folder(config, root))


def load_networks(config: Config, root: Path | None) -> Mapping[str, Any]:
    """The networks of a run, split by split, as its suite stores them."""
    return SUITES[config.suite].module.load_networks(config, root)


def make_problem(config: Config, sets: Mapping[str, Any]) -> Problem:
    """Task and networks of a run; which networks are left out is said."""
    problem: Problem = SUITES[config.suite].module.make_problem(config, sets)
    for name, samples in problem.splits.items():
        for why, which in samples.left_out.items():
            more = "" if len(which) <= NAMED else f" and {len(which) - NAMED} more"
            tqdm.write(f"Left out of {name}, {len(which)}: {why}: {', '.join(map(str, which[:NAMED]))}{more}")
    if config.encoder in MLPS:
        splits = {name: flat(samples) for name, samples in problem.splits.items()}
        return Problem(problem.task, splits)
    return problem


def make_trainer(config: Config, sets: Mapping[str, Any], folder: Path) -> Trainer:
    """Everything that a run needs, ready to go on where it was."""
    return trainer_of(config, make_problem(config, sets), folder)


def trainer_of(config: Config, problem: Problem, folder: Path, team: Team | None = None) -> Trainer:
    """The same, of a problem that is made already."""
    model = build_model(config, problem.splits["train"], problem.task, problem.module, problem.example)
    return Trainer(config, problem.task, problem.splits, model, folder, team)
