"""The final runs: all training data, the whole test part, several seeds; rows that exist are skipped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.common.rivals import RIVALS, make_rival
from benchmarks.common.training import Steps
from benchmarks.learning_to_optimize.optimizers import LEARNED, row_name
from benchmarks.learning_to_optimize.store import FOLDER, Row, rows_of, runs_path, store
from benchmarks.learning_to_optimize.tasks import Task
from benchmarks.learning_to_optimize.training import make_loop, outcome
from benchmarks.learning_to_optimize.tuning import best_settings, file_settings, others_left, pass_over

KEY = ("optimizer", "seed")


def run(
    task: Task,
    name: str,
    seeds: Sequence[int],
    steps: int,
    command: Sequence[str],
    folder: Path = FOLDER,
    *,
    horizon_share: float = 1.0,
    lr: float = 1.0,
    by_train_loss: bool = False,
) -> int:
    """Run the seeds of an optimizer whose rows are missing, or are of other settings.

    Tuning sees one seed, and may choose settings at the edge of divergence. Where a run of a rival diverges, the grid
    remembers, and the seeds are run with the next best settings: so often, then its divergence is its own.

    Args:
        task: To train.
        name: Of a rival or a learned optimizer.
        seeds: Of initial weights and batches.
        steps: Of a whole run.
        command: For the file.
        folder: Of the files.
        horizon_share: For learned optimizers: make and run them for this share of the steps, as rows of another name.
        lr: For learned optimizers: this multiple of their own step size, as rows of another name.
        by_train_loss: For rivals: settings with the lowest final training loss in the grid, as rows of another name.

    Returns:
        How many rows were made.
    """
    path, own_steps = runs_path(task.name, steps, folder), max(1, round(horizon_share * steps))
    label = row_name(name, horizon_share=horizon_share, lr=lr, by_train_loss=by_train_loss)
    made = 0
    while True:
        settings, source = settings_of(task, name, steps, folder, by_train_loss)
        own = [row for row in rows_of(path) if row["optimizer"] == label and row["settings"] == settings]
        diverged = any(row["diverged"] for row in own)
        replaceable = name in RIVALS and others_left(task, name, steps, folder)
        for seed in seeds:
            if seed in {row["seed"] for row in own} or (diverged and replaceable):
                continue
            head = {"optimizer": label, "seed": seed, "settings": settings, "tuned_on": source}
            row = head | run_seed(task, label, maker(name, settings, own_steps, lr), seed, own_steps)
            store(path, row, KEY, file_settings(task, steps), command)
            diverged, made = diverged or row["diverged"], made + 1
        if not (diverged and replaceable):
            return made
        pass_over(task, name, settings, steps, command, folder)


def settings_of(
    task: Task, name: str, steps: int, folder: Path, by_train_loss: bool = False
) -> tuple[dict[str, Any], str]:
    """Tuned settings of a rival, or the identity of a learned optimizer's weights; and where they are from."""
    if name in RIVALS:
        return best_settings(task, name, steps, folder, by_train_loss=by_train_loss)
    return LEARNED[name].settings(), "not tuned"


def maker(name: str, settings: dict[str, Any], steps: int, lr: float = 1.0) -> Callable[[nn.Module], Steps]:
    """What makes the optimizer of a model."""
    if name in RIVALS:
        return lambda model: make_rival(name, model, steps, settings)
    options = {"lr": lr} if lr != 1.0 else {}
    return lambda model: LEARNED[name].make(model, steps, **options)


def run_seed(task: Task, label: str, make: Callable[[nn.Module], Steps], seed: int, steps: int) -> Row:
    """One run on all training data, evaluated on the test part."""
    part, test = task.load().for_running()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = make_loop(task, make, part, seed, steps)
        row = outcome(task, loop, part, test, f"{label} seed {seed}")
    ours = [str(w.message) for w in caught if "step was skipped" in str(w.message) or "graph" in str(w.message)]
    return {**row, "warnings": ours[:3]} if ours else row
