"""What another `lr` than the one that is right by itself does to learned optimizers: a row per multiple."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from benchmarks.learning_to_optimize.optimizers import LR, own_name, row_name
from benchmarks.learning_to_optimize.suite import TaskRuns, overall
from benchmarks.learning_to_optimize.summary import speed, worst
from benchmarks.learning_to_optimize.tables import lines
from benchmarks.learning_to_optimize.tasks import SUITES


def rates_of(suite: Sequence[TaskRuns], name: str) -> list[float]:
    """The multiples of its step size that an optimizer was run at, 1 among them if there are others."""
    labels = {row["optimizer"] for runs in suite for row in runs.rows}
    found = {float(label.partition(LR)[2]) for label in labels if LR in label and own_name(label) == name}
    return sorted({1.0, *found}) if found else []


def rates_table(suite: Sequence[TaskRuns]) -> str:
    """Speed-up over tuned AdamW and runs that diverged, on those tasks that were run at all of the multiples."""
    groups = {group: [runs for runs in suite if runs.settings["group"] == group] for group in SUITES}
    rows = []
    for name in dict.fromkeys(own_name(row["optimizer"]) for runs in suite for row in runs.rows):
        if not (rates := rates_of(suite, name)):
            continue
        labels = [row_name(name, lr=rate) for rate in rates]
        common = {g: [runs for runs in some if all(map(runs.of, labels))] for g, some in groups.items()}
        for rate, label in zip(rates, labels, strict=True):
            cells = [f"{name}, `lr={rate:g}`"]
            for group, some in groups.items():
                found = overall(common[group], label)
                cells += [speed(found, some), worst(found)]
            own = list(chain.from_iterable(runs.of(label) for some in common.values() for runs in some))
            cells += [f"{sum(row['diverged'] for row in own)} of {len(own)}"]
            rows.append(cells)
    if not rows:
        return "Nothing was run at another `lr` yet."
    head = ["optimizer", *chain.from_iterable((f"{group}: speed-up", "worst task") for group in SUITES), "diverged"]
    return lines(head, rows)
