"""What the stored runs of a task say when they are seen together: targets, speed-ups, who is best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common.results import read_results
from benchmarks.common.rivals import RIVALS
from benchmarks.learning_to_optimize.measures import mean_curve, speed_up, steps_to
from benchmarks.learning_to_optimize.optimizers import BASE, LEARNED, LR, own_name
from benchmarks.learning_to_optimize.store import FOLDER, Row, cost_path, rows_of
from benchmarks.learning_to_optimize.tasks import GROUPS, TASKS
from meta_train.intervals import bootstrap, bootstrap_groups, interquartile_mean

FIRST_LOOKED_AT: dict[str, str | None] = {  # the day of the first run of a learned optimizer; None: not yet
    "paper": "2026-11-21",
    "held-out": "2026-11-21",  # often since, while starting rules were designed: it is no longer blind
    # To be looked at once per released checkpoint, and never before one is chosen. So far seen under three versions of
    # the rule; the last change, bases for embeddings, was chosen on other tasks, but after a look at the second.
    "unseen": "2026-11-27",
}
ORDER = [*RIVALS, *reversed(LEARNED)]  # the one that this is all about comes last


@dataclass(frozen=True)
class TaskRuns:
    """All runs of a task at one number of steps.

    Args:
        settings: Of the file.
        rows: Of all optimizers and seeds.
        costs: What a step costs, a row per optimizer; see `costing`.
    """

    settings: dict[str, Any]
    rows: list[Row]
    costs: list[Row] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the task."""
        return self.settings["task"]

    @property
    def steps(self) -> int:
        """Of a whole run."""
        return self.settings["steps"]

    @cached_property
    def names(self) -> list[str]:
        """Optimizers that there are rows of, in the order of tables; `rates` has those at another `lr`."""
        return sorted({row["optimizer"] for row in self.rows if LR not in row["optimizer"]}, key=rank)

    def of(self, name: str) -> list[Row]:
        """Rows of an optimizer, by seed."""
        return sorted((row for row in self.rows if row["optimizer"] == name), key=lambda row: row["seed"])

    def end(self, name: str) -> float:
        """Mean final training loss over seeds; infinite if one diverged, or there is none."""
        rows = self.of(name)
        if not rows or any(row["diverged"] or row["final_loss"] is None for row in rows):
            return math.inf
        return mean(row["final_loss"] for row in rows)

    @cached_property
    def best_rival(self) -> str | None:
        """The tuned rival with the lowest final training loss; None if there is none that ended well."""
        ends = {name: self.end(name) for name in self.names if name in RIVALS}
        best = min(ends, key=ends.__getitem__, default=None)
        return best if best is not None and math.isfinite(ends[best]) else None

    def speed_ups(self, name: str, base: str = BASE) -> list[float]:
        """Over tuned AdamW in steps, per seed; none if AdamW is missing or diverged."""
        base_end = self.end(base)
        if not math.isfinite(base_end):
            return []
        curve = mean_curve([row["curve"] for row in self.of(base)])
        return [
            speed_up(row["curve"], self.steps, curve, base_end, None if row["diverged"] else row["final_loss"])
            for row in self.of(name)
        ]

    def time_ratios(self, name: str, base: str = BASE) -> list[float]:
        """Processor time to tuned AdamW's final loss over AdamW's for its whole run, per seed; none without costs.

        The ratio of the costs of a step, over the speed-up in steps; what comes once (the trace of the graph) is added.
        Infinite for a run that diverged.
        """
        costs = {row["optimizer"]: row for row in self.costs}
        own, theirs = costs.get(own_name(name)), costs.get(base)
        if own is None or theirs is None:
            return []
        whole = theirs["cpu_ms_per_step"] * self.steps + theirs["once_ms"]
        return [
            (own["cpu_ms_per_step"] * self.steps / speed + own["once_ms"]) / whole if speed else math.inf
            for speed in self.speed_ups(name, base)
        ]


def steps_and_seconds(row: Row, target: float) -> tuple[int, float] | None:
    """When a run first had a loss, in steps and in processor seconds (the trace of the graph included); None: never."""
    if row["diverged"]:
        return None
    step = steps_to(row["curve"], target)
    if step is None:
        return None
    per_step = row["cpu_ms_per_step"] / 1e3
    once = max(0.0, row["cpu_seconds"] - per_step * row["steps"])
    return step, once + step * per_step


def rank(name: str) -> tuple[int, str]:
    """Place of an optimizer in tables."""
    own = own_name(name)
    return (ORDER.index(own) if own in ORDER else len(ORDER), name)


def read_suite(folder: Path = FOLDER) -> dict[int, list[TaskRuns]]:
    """All stored runs by number of steps."""
    suites: dict[int, list[TaskRuns]] = {}
    for path in sorted(folder.glob("*.json")):
        results = read_results(path)
        settings = results["settings"]
        if not path.stem.endswith(("_tuning", "_cost")) and settings["task"] in TASKS and results["rows"]:
            costs = rows_of(cost_path(settings["task"], folder))
            suites.setdefault(settings["steps"], []).append(TaskRuns(settings, results["rows"], costs))
    known = list(TASKS)
    for some in suites.values():
        some.sort(key=lambda runs: (GROUPS.index(runs.settings["group"]), known.index(runs.name)))
    return dict(sorted(suites.items()))


@dataclass(frozen=True)
class Overall:
    """Interquartile mean over the tasks of a suite, each with the mean of its seeds; 95 % intervals.

    Args:
        value: Interquartile mean.
        seeds: Interval over seeds: the tasks are these.
        tasks: Interval over tasks and seeds: the tasks could have been others.
        by_task: Mean over seeds.
    """

    value: float
    seeds: tuple[float, float]
    tasks: tuple[float, float]
    by_task: dict[str, float]


def overall(suite: Iterable[TaskRuns], name: str, base: str = BASE) -> Overall | None:
    """Speed-up of an optimizer over AdamW on those tasks that it has rows of; None if there are none."""
    return summed_up({runs.name: runs.speed_ups(name, base) for runs in suite})


def overall_time(suite: Iterable[TaskRuns], name: str, base: str = BASE) -> Overall | None:
    """The same of `TaskRuns.time_ratios`."""
    return summed_up({runs.name: runs.time_ratios(name, base) for runs in suite})


def summed_up(values: dict[str, list[float]]) -> Overall | None:
    """What the seeds of some tasks say together; tasks without values do not count."""
    values = {task: some for task, some in values.items() if some}
    if not values:
        return None

    groups, by_task = list(values.values()), {task: mean(some) for task, some in values.items()}
    return Overall(
        float(interquartile_mean(list(by_task.values()))),
        bootstrap(groups),
        bootstrap_groups(groups),
        by_task,
    )
