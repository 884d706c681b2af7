"""The whole comparison in one table and one picture: a row, or a bar, per optimizer, for both suites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.common.rivals import RIVALS
from benchmarks.learning_to_optimize.charts import colour, line
from benchmarks.learning_to_optimize.optimizers import BASE, title
from benchmarks.learning_to_optimize.suite import FIRST_LOOKED_AT, Overall, TaskRuns, overall, overall_time, rank
from benchmarks.learning_to_optimize.tables import MAIN, lines, not_run
from benchmarks.learning_to_optimize.tasks import SUITES, TASKS

SHOWN = (*RIVALS, *MAIN)


def summary_table(suite: Sequence[TaskRuns], steps: int) -> str:
    """Speed-up in steps and time to tuned AdamW's final loss, on both suites.

    Args:
        suite: All runs of so many steps.
        steps: Of a run.
    """
    groups = {group: [runs for runs in suite if runs.settings["group"] == group] for group in SUITES}
    head = ["optimizer"]
    for group in SUITES:
        head += [f"{group}: speed-up", "worst task", "time"]
    rows = []
    for name in sorted(SHOWN, key=rank):
        cells = [title(name)]
        for some in groups.values():
            found, times = overall(some, name), overall_time(some, name)
            cells += [speed(found, some), worst(found), f"{times.value:.2f}" if times else "not run"]
        rows.append(cells)
    words = [f"{group}: {_looked(group)}" for group in SUITES]
    missing = [not_run(some, group, steps) for group, some in groups.items()]
    return "\n\n".join([lines(head, rows), f"First looked at: {'; '.join(words)}.", *missing])


def time_table(suite: Sequence[TaskRuns]) -> str:
    """Per task: what a step costs over a step of AdamW, and the time to tuned AdamW's final loss over AdamW's."""
    some = [runs for runs in suite if runs.costs]
    if not some:
        return "Costs were not measured yet."
    costed = {row["optimizer"] for runs in some for row in runs.costs}
    names = sorted(costed & set(SHOWN), key=rank)
    rows = []
    for words, group in _slices(some):
        totals = [overall_time(group, name) for name in names]
        cells = [_total_time(found) for found in totals]
        rows.append([f"**interquartile mean**, {words}", "", *cells])
    for runs in some:
        costs = {row["optimizer"]: row["cpu_ms_per_step"] for row in runs.costs}
        cells = []
        for name in names:
            ratios = runs.time_ratios(name)
            step = f"{costs[name] / costs[BASE]:.2f}" if name in costs and BASE in costs else "not run"
            cells.append(f"{step}, {_finite(mean(ratios))}" if ratios else step)
        rows.append([runs.name, f"{costs[BASE]:.2f}" if BASE in costs else "", *cells])
    return lines(["step, time to AdamW's final loss", f"{BASE}, ms per step", *(title(name) for name in names)], rows)


def draw_summary(suite: Sequence[TaskRuns], path: Path) -> None:
    """One bar per optimizer and suite: interquartile-mean speed-up over tuned AdamW.

    Thick lines: 95 % intervals over seeds; thin ones: over tasks and seeds. What was not run has no bar.
    """
    from matplotlib.figure import Figure

    groups = {group: [runs for runs in suite if runs.settings["group"] == group] for group in SUITES}
    groups = {group: some for group, some in groups.items() if any(runs.speed_ups(BASE) for runs in some)}
    names = [name for name in sorted(SHOWN, key=rank) if any(overall(some, name) for some in groups.values())]
    figure = Figure(figsize=(9.5, 0.36 * len(names) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (group, some) in zip(panels, groups.items(), strict=True):
        for at, name in enumerate(names):
            found = overall(some, name)
            if found is None:
                axes.annotate("not run", (0.03, at), va="center", fontsize="small", color="#5b5f66")
                continue
            axes.barh(at, found.value, 0.7, color=colour(name), alpha=1.0 if line(name) == "-" else 0.55)
            for (low, high), width in ((found.tasks, 1.0), (found.seeds, 3.0)):
                axes.plot([low, high], [at, at], color="#222222", linewidth=width, solid_capstyle="butt")
            words = f"{found.value:.2f}" + ("" if len(found.by_task) == len(some) else f" ({len(found.by_task)} tasks)")
            axes.annotate(
                words, (found.tasks[1], at), (4, 0), textcoords="offset points", va="center", fontsize="small"
            )
        axes.axvline(1.0, color="black", linewidth=0.6, alpha=0.5)
        axes.set(xlim=(0, None), title=f"{group} suite, {len(some)} tasks")
        axes.title.set_fontsize("medium")
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks(range(len(names)), [title(name) for name in names])
        axes.grid(alpha=0.25, axis="x")
    figure.supxlabel(f"speed-up over tuned {BASE} in steps, interquartile mean over tasks", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _slices(suite: Sequence[TaskRuns]) -> list[tuple[str, list[TaskRuns]]]:
    slices = [(group, [runs for runs in suite if runs.settings["group"] == group]) for group in SUITES]
    slices += [("above 10,000 parameters", [runs for runs in suite if runs.settings["parameters"] > 10_000])]
    return [(words, some) for words, some in slices if some]


def speed(found: Overall | None, suite: Sequence[TaskRuns]) -> str:
    """An interquartile mean, its interval over seeds, and of how many tasks where some are missing."""
    if found is None:
        return "not run"
    some = f" ({len(found.by_task)} of {len(suite)} tasks)" if len(found.by_task) < len(suite) else ""
    return f"**{found.value:.2f}** [{found.seeds[0]:.2f}, {found.seeds[1]:.2f}]{some}"


def worst(found: Overall | None) -> str:
    """The task with the least speed-up."""
    if found is None:
        return "not run"
    task, value = min(found.by_task.items(), key=lambda item: item[1])
    return f"{value:.2f} ({task})"


def _looked(group: str) -> str:
    count = sum(task.group == group for task in TASKS.values())
    return f"{FIRST_LOOKED_AT[group] or 'no learned optimizer has run on it yet'}, {count} tasks"


def _total_time(found: Overall | None) -> str:
    if found is None:
        return "not run"
    return f"**{_finite(found.value)}** [{_finite(found.seeds[0])}, {_finite(found.seeds[1])}]"


def _finite(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "never"
