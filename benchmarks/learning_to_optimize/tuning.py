"""Tune rivals on validation data, which is a part of the training data; nothing here asks for the test part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common.results import put_row
from benchmarks.common.rivals import make_rival
from benchmarks.learning_to_optimize.grid import GRIDS, Grid, Settings, neighbour, smoke
from benchmarks.learning_to_optimize.store import FOLDER, Row, rows_of, store, tuning_path
from benchmarks.learning_to_optimize.tasks import TASKS, Task
from benchmarks.learning_to_optimize.training import make_loop, outcome

SEED = 0
KEY = ("optimizer", "settings", "seed")
LATER = "diverged_in_a_final_run"
FURTHER = 3  # settings that are tried after some that diverged
TUNED_STEPS = 1000  # of the settings that longer runs take over, unless they were tuned themselves


def tune(
    task: Task, name: str, steps: int, command: Sequence[str], folder: Path = FOLDER, *, tiny: bool = False
) -> Row:
    """Run what is missing of a rival's grid; returns the row of the best point."""
    path = tuning_path(task.name, steps, folder)
    grid = smoke(GRIDS[name]) if tiny else GRIDS[name]
    known = {_key(row["settings"]): row for row in rows_of(path) if row["optimizer"] == name}

    def measure(settings: Settings, stage: int) -> Row:
        if _key(settings) not in known:
            row = {"optimizer": name, "stage": stage, "settings": settings, "seed": SEED}
            known[_key(settings)] = row = row | try_point(task, name, settings, steps)
            store(path, row, KEY, file_settings(task, steps), command)
        return known[_key(settings)]

    best = first_stage(grid, lambda lr: measure(grid.point(lr), 1))
    return min([best, *(measure(point, 2) for point in grid.second(best["settings"]))], key=score)


def first_stage(grid: Grid, measure: Callable[[float], Row]) -> Row:
    """The best learning rate; the grid grows while that is at its edge."""
    rows = {lr: measure(lr) for lr in grid.lrs}
    for _ in range(grid.extensions):
        lrs = sorted(rows)
        best = min(lrs, key=lambda lr: score(rows[lr]))
        if best not in (lrs[0], lrs[-1]):
            break
        lr = neighbour(best, -1 if best == lrs[0] else 1)
        rows[lr] = measure(lr)
    return min(rows.values(), key=score)


def try_point(task: Task, name: str, settings: Settings, steps: int) -> Row:
    """Train on the training data without its validation part, and evaluate on that."""
    part, validation = task.load().for_tuning()
    loop = make_loop(task, lambda model: make_rival(name, model, steps, settings), part, SEED, steps)
    row = outcome(task, loop, part, validation, f"{name} {short(settings)}")
    del row["curve"]
    return row


def score(row: Row) -> float:
    """Loss on the validation part at the end; infinite for a run that diverged, or settings that did so later."""
    loss = row["evaluation_loss"]
    return math.inf if row["diverged"] or row.get(LATER) or loss is None else loss


def train_score(row: Row) -> float:
    """Final training loss; infinite for a run that diverged, or settings that did so later."""
    return math.inf if row["diverged"] or row.get(LATER) or row["final_loss"] is None else row["final_loss"]


def best_settings(
    task: Task, name: str, steps: int, folder: Path = FOLDER, *, by_train_loss: bool = False
) -> tuple[Settings, str]:
    """The best settings of a rival and, in words, where they are from.

    Args:
        task: To train.
        name: Of the rival.
        steps: Of the run.
        folder: Of the files.
        by_train_loss: Choose by the final training loss, which speed-ups are about, instead of validation loss.

    Raises:
        FileNotFoundError: It was tuned neither at so many steps nor at `TUNED_STEPS`.
    """
    source, tuned_steps, rows = _grid(task, name, steps, folder)
    if rows:
        best = min(rows, key=train_score if by_train_loss else score)
        return best["settings"], f"{source.name} at {tuned_steps} steps"
    raise FileNotFoundError(
        f"{name} was not tuned on {source.name}: there are no rows of it in "
        f"{tuning_path(source.name, steps, folder)}. Run python -m benchmarks.learning_to_optimize tune "
        f"--task {source.name} --optimizer {name} first."
    )


def others_left(task: Task, name: str, steps: int, folder: Path = FOLDER) -> bool:
    """Whether the best settings of a rival may give way to the next best, should they diverge in a final run."""
    _, _, rows = _grid(task, name, steps, folder)
    passed = sum(bool(row.get(LATER)) for row in rows)
    return passed < FURTHER and sum(math.isfinite(score(row)) for row in rows) > 1


def pass_over(
    task: Task, name: str, settings: Settings, steps: int, command: Sequence[str], folder: Path = FOLDER
) -> None:
    """Note in the grid that settings diverged in a final run, so that they are chosen no more."""
    source, tuned_steps, rows = _grid(task, name, steps, folder)
    path = tuning_path(source.name, tuned_steps, folder)
    for row in rows:
        if row["settings"] == settings:
            put_row(path, {**row, LATER: True}, KEY, file_settings(source, tuned_steps), command)


def _grid(task: Task, name: str, steps: int, folder: Path) -> tuple[Task, int, list[Row]]:
    """Which task and number of steps a rival's settings are from, and the rows of its grid; none: not tuned."""
    source = TASKS[task.settings_of] if task.settings_of else task
    for tuned_steps in (steps, TUNED_STEPS):
        rows = [r for r in rows_of(tuning_path(source.name, tuned_steps, folder)) if r["optimizer"] == name]
        if rows:
            return source, tuned_steps, rows
    return source, steps, []


def file_settings(task: Task, steps: int) -> dict[str, object]:
    """What the rows of a file have in common."""
    return {
        "task": task.name,
        "group": task.group,
        "about": task.about,
        "data_set": task.data_set,
        "metric": task.metric.name,
        "higher_is_better": task.metric.higher_is_better,
        "batch_size": task.batch_size,
        "steps": steps,
        "parameters": sum(p.numel() for p in task.build(SEED).parameters()),
    }


def short(settings: Settings) -> str:
    """Settings in few letters."""
    return " ".join(f"{k}={v:g}" if isinstance(v, (int, float)) else str(v) for k, v in settings.items())


def _key(settings: Settings) -> str:
    return repr(sorted(settings.items()))
