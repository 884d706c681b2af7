"""The bars that were set before anything was run, each checked against the stored rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

from benchmarks.learning_to_optimize.measures import steps_to
from benchmarks.learning_to_optimize.optimizers import (
    BASE,
    BY_TRAIN_LOSS,
    NGOPT,
    NO_GRAPH,
    UNTRAINED,
    own_name,
    row_name,
)
from benchmarks.learning_to_optimize.suite import TaskRuns, overall
from benchmarks.learning_to_optimize.tasks import TASKS

ACCURACIES = {"fm16": 89.5, "cifar-16-32-32": 70.5}  # percent
SHARE_OF_STEPS = 0.70
SPEED_UP = 2.0
TARGET = "Muon"
NOT_RUN = "not run"


def bars(suites: dict[int, Sequence[TaskRuns]], steps: int) -> list[tuple[str, str]]:
    """Every bar in words, and what became of it.

    Args:
        suites: All stored runs by number of steps.
        steps: The number that the bars are about, except the one about divergence, which is about all.
    """
    runs = {r.name: r for r in suites.get(steps, [])}
    held_out = [r for r in runs.values() if r.settings["group"] == "held-out"]
    found = [
        (f"{NGOPT}, untuned, has a test accuracy of at least {bar} % on {task}", _accuracy(runs.get(task), bar))
        for task, bar in ACCURACIES.items()
    ]
    for task in ACCURACIES:
        words = f"reaches tuned {TARGET}'s final training loss on {task}"
        found.append((f"{words} within {SHARE_OF_STEPS:.0%} of the steps of its run", _within(runs.get(task))))
        found.append((f"{words} in a run of {SHARE_OF_STEPS:.0%} of the steps", _shorter(runs.get(task))))
    found.append(
        (f"interquartile-mean speed-up over tuned AdamW, held-out suite, at least {SPEED_UP}", _speed(held_out))
    )
    found.append(("the same over AdamW tuned on training loss", _speed(held_out, BASE + BY_TRAIN_LOSS)))
    found.append(("no divergence in any run, whatever its length", _divergence(suites)))
    for better, worse, words in (
        (NGOPT, UNTRAINED, "trained beats untrained on the held-out suite"),
        (NGOPT, NO_GRAPH, "trained with the graph beats trained without it on the held-out suite"),
    ):
        found.append((words, _beats(held_out, better, worse)))
    return found


def _verdict(met: bool, number: str) -> str:
    return f"met ({number})" if met else f"missed ({number})"


def _accuracy(runs: TaskRuns | None, bar: float) -> str:
    rows = runs.of(NGOPT) if runs else []
    if not rows:
        return NOT_RUN
    value = mean(row["metric"] if row["metric"] is not None else 0.0 for row in rows)
    return _verdict(value >= bar, f"{value:.2f} %")


def _within(runs: TaskRuns | None) -> str:
    if runs is None or not runs.of(NGOPT) or not runs.of(TARGET):
        return NOT_RUN
    reached = [steps_to(row["curve"], runs.end(TARGET)) for row in runs.of(NGOPT)]
    missing = sum(step is None for step in reached)
    if missing:
        return f"missed (not reached by {missing} of {len(reached)} runs)"
    share = mean(step for step in reached if step is not None) / runs.steps
    return _verdict(share <= SHARE_OF_STEPS, f"{share:.1%}")


def _shorter(runs: TaskRuns | None) -> str:
    name = row_name(NGOPT, horizon_share=SHARE_OF_STEPS)
    if runs is None or not runs.of(name) or not runs.of(TARGET):
        return NOT_RUN
    ours, theirs = runs.end(name), runs.end(TARGET)
    return _verdict(ours <= theirs, f"{ours:.4g} against {theirs:.4g}")


def _speed(held_out: Sequence[TaskRuns], base: str = BASE) -> str:
    found = overall(held_out, NGOPT, base)
    if found is None:
        return NOT_RUN
    number = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
    missing = [t.name for t in TASKS.values() if t.group == "held-out" and t.name not in found.by_task]
    if missing:
        return f"{NOT_RUN} on {', '.join(missing)}; {number} on the others"
    return _verdict(found.value >= SPEED_UP, number)


def _divergence(suites: dict[int, Sequence[TaskRuns]]) -> str:
    rows = [(steps, r, row) for steps, some in suites.items() for r in some for row in r.rows]
    ours = [(steps, r, row) for steps, r, row in rows if own_name(row["optimizer"]) == NGOPT]
    if not ours:
        return NOT_RUN
    bad = sorted({f"{r.name} at {steps} steps" for steps, r, row in ours if row["diverged"]})
    longest = max(row["steps"] for _, _, row in ours)
    return _verdict(not bad, ", ".join(bad) if bad else f"{len(ours)} runs of up to {longest:,} steps")


def _beats(held_out: Sequence[TaskRuns], better: str, worse: str) -> str:
    both = [runs for runs in held_out if runs.of(better) and runs.of(worse)]
    first, second = overall(both, better), overall(both, worse)
    if first is None or second is None:
        return NOT_RUN
    wins = sum(runs.end(better) < runs.end(worse) for runs in both)
    ended = sum(math.isfinite(runs.end(better)) or math.isfinite(runs.end(worse)) for runs in both)
    numbers = f"speed-up {first.value:.2f} against {second.value:.2f}; lower final loss on {wins} of {ended} tasks"
    return _verdict(first.value > second.value, numbers)
