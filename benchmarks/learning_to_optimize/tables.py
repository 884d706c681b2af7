"""Tables of the stored runs, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

from benchmarks.common.rivals import RIVALS
from benchmarks.learning_to_optimize.bars import bars
from benchmarks.learning_to_optimize.optimizers import (
    BASE,
    BY_TRAIN_LOSS,
    NGOPT,
    NO_GRAPH,
    NO_MODEL,
    RAW_SHAPES,
    UNTRAINED,
    title,
)
from benchmarks.learning_to_optimize.suite import TaskRuns, overall, rank, steps_and_seconds
from benchmarks.learning_to_optimize.tasks import GROUPS, TASKS
from benchmarks.learning_to_optimize.tuning import short
from meta_train.intervals import bootstrap

Suites = dict[int, Sequence[TaskRuns]]
MAIN = (UNTRAINED, RAW_SHAPES, NO_GRAPH, NO_MODEL, NGOPT)  # learned optimizers that a whole table has


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def bars_table(suites: Suites, steps: int) -> str:
    """Every bar and its verdict."""
    return lines(["bar", "result"], bars(suites, steps))


def speed_table(suites: Suites) -> str:
    """Per number of steps and group: the interquartile mean, then every task, a column per optimizer."""
    parts = []
    for steps, suite in suites.items():
        for group in GROUPS:
            some = [runs for runs in suite if runs.settings["group"] == group and runs.speed_ups(BASE)]
            if not some:
                continue
            names = sorted({name for runs in some for name in runs.names}, key=rank)
            totals = {name: overall(some, name) for name in names}
            rows = [
                ["**interquartile mean**, interval over seeds", *(_total(totals[name], len(some)) for name in names)],
                ["interval over tasks and seeds", *(_interval(totals[name]) for name in names)],
                ["seeds", *(_seeds(some, name) for name in names)],
            ]
            strict = {name: overall(some, name, BASE + BY_TRAIN_LOSS) for name in names}
            if any(strict.values()):
                words = "the same over AdamW tuned on train loss"
                rows.append([words, *(_total(strict[name], len(some)) for name in names)])
            for runs in some:
                rows.append([runs.name, *(_mean_or_blank(runs.speed_ups(name)) for name in names)])
            head = ["speed-up over tuned AdamW", *(title(name) for name in names)]
            parts.append(f"**{group}, {steps:,} steps**\n\n{lines(head, rows)}")
            parts.append(not_run(some, group, steps))
    return "\n\n".join(parts) or "Nothing was run yet."


def not_run(suite: Sequence[TaskRuns], group: str, steps: int) -> str:
    """Which tasks of a group, and which optimizers on the others, there are no rows of."""
    there = {runs.name: set(runs.names) for runs in suite}
    missing = [task.name for task in TASKS.values() if task.group == group and task.name not in there]
    words = [f"any optimizer on {', '.join(missing)}"] if missing else []
    for name in (*RIVALS, *MAIN):
        without = [task for task, names in there.items() if name not in names]
        if without:
            words.append(title(name) + ("" if len(without) == len(there) else f" on {', '.join(without)}"))
    return f"Not run ({group}, {steps:,} steps): {'; '.join(words) or 'nothing is missing'}."


def task_tables(suites: Suites) -> str:
    """A table per task: everything that is reported of a run."""
    return "\n\n".join(task_table(runs) for suite in suites.values() for runs in suite) or "Nothing was run yet."


def task_table(runs: TaskRuns) -> str:
    """All optimizers on one task."""
    settings, rival = runs.settings, runs.best_rival
    head = ["optimizer", f"test {settings['metric']}", "95 % interval", "mean loss", "final loss"]
    head += ["steps to AdamW's final loss", "seconds", f"steps to {rival or 'the best rival'}'s", "seconds"]
    head += ["ms per step", "state KiB", "diverged"]
    rows = []
    for name in runs.names:
        own = runs.of(name)
        metrics = [row["metric"] for row in own if row["metric"] is not None]
        low, high = bootstrap([metrics]) if metrics else (math.nan, math.nan)
        rows.append(
            [
                title(name),
                spread(metrics),
                f"{number(low)} to {number(high)}" if len(metrics) > 1 else "",
                spread([row["mean_loss"] for row in own]),
                spread([row["final_loss"] for row in own]),
                *_reached(runs, name, BASE),
                *(_reached(runs, name, rival) if rival else ("", "")),
                f"{mean(row['cpu_ms_per_step'] for row in own):.2f}",
                f"{max(row['state_bytes'] for row in own) / 1024:.0f}",
                f"{sum(row['diverged'] for row in own)} of {len(own)}",
            ]
        )
    about = f"**{runs.name}**: {settings['about']}; {settings['parameters']:,} parameters, batch "
    return f"{about}{settings['batch_size']}, {runs.steps:,} steps\n\n{lines(head, rows)}\n\n{_origin(runs)}"


def settings_table(suites: Suites) -> str:
    """Tuned settings of every rival on every task, and where they were tuned."""
    rows = []
    for suite in suites.values():
        for runs in suite:
            chosen = {row["optimizer"]: row for row in runs.rows if row["optimizer"] in RIVALS}
            cells = [short(chosen[name]["settings"]) if name in chosen else "" for name in RIVALS]
            sources = sorted({row["tuned_on"] for row in chosen.values()})
            rows.append([runs.name, f"{runs.steps:,}", *cells, ", ".join(sources)])
    return lines(["task", "steps", *RIVALS, "tuned on"], rows)


def number(value: float) -> str:
    """Four significant digits, without an exponent where one can do without."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4g}"


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation over seeds."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "not finite"
    if len(known) == 1:
        return number(known[0])
    return f"{number(mean(known))} ± {stdev(known):.2g}"


def _reached(runs: TaskRuns, name: str, target: str) -> tuple[str, str]:
    """Steps and seconds to the final loss of another optimizer: means over the runs that got there."""
    end = runs.end(target)
    if not math.isfinite(end):
        return "", ""
    reached = [found for row in runs.of(name) if (found := steps_and_seconds(row, end))]
    if not reached:
        return "not reached", ""
    count = len(runs.of(name))
    some = f" ({len(reached)} of {count} runs)" if len(reached) < count else ""
    return f"{mean(steps for steps, _ in reached):.0f}{some}", f"{mean(seconds for _, seconds in reached):.1f}"


def _total(found, tasks: int) -> str:
    if found is None:
        return ""
    some = f" ({len(found.by_task)} of {tasks} tasks)" if len(found.by_task) < tasks else ""
    return f"**{found.value:.2f}** [{found.seeds[0]:.2f}, {found.seeds[1]:.2f}]{some}"


def _interval(found) -> str:
    return "" if found is None else f"[{found.tasks[0]:.2f}, {found.tasks[1]:.2f}]"


def _seeds(suite: Sequence[TaskRuns], name: str) -> str:
    counts = sorted({len(runs.of(name)) for runs in suite} - {0})
    return " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1])))) if counts else ""


def _mean_or_blank(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" if values else ""


def _origin(runs: TaskRuns) -> str:
    seeds = sorted({len(runs.of(name)) for name in runs.names})
    words = [f"{' to '.join(dict.fromkeys((str(seeds[0]), str(seeds[-1]))))} seed(s)"]
    words.append(
        ", ".join(sorted({f"{row['on']['processor']}, {row['on']['threads']} thread(s)" for row in runs.rows}))
    )
    words.append("torch " + ", ".join(sorted({row["on"]["torch"] for row in runs.rows})))
    own = f"{runs.name} at {runs.steps} steps"
    others = sorted({r["tuned_on"] for r in runs.rows if r["optimizer"] in RIVALS and r["tuned_on"] != own})
    words += [f"rivals tuned on {' and '.join(others)}"] if others else []
    return "; ".join(words) + "."
