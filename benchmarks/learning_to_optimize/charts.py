"""Pictures of the stored runs: loss curves in small panels, and performance profiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.plots import COLOURS, STYLES
from benchmarks.learning_to_optimize.optimizers import BASE, BY_TRAIN_LOSS, HORIZON, own_name, title
from benchmarks.learning_to_optimize.suite import TaskRuns, overall, rank

COLUMNS = 4


def draw_curves(suite: Sequence[TaskRuns], path: Path) -> None:
    """Training loss over steps, a panel per task: the mean over seeds, and a band from the lowest to the highest."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    columns = min(COLUMNS, len(suite))
    rows = math.ceil(len(suite) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, runs in zip(panels, suite, strict=False):
        for name in _names([runs]):
            curves = [row["curve"] for row in runs.of(name)]
            steps = curves[0]["steps"]
            losses = np.array([_whole(curve["losses"], len(steps)) for curve in curves])
            style = {"color": colour(name), "linestyle": line(name)}
            axes.plot(steps, losses.mean(0), label=title(name), linewidth=1.6, zorder=rank(name)[0], **style)
            axes.fill_between(steps, losses.min(0), losses.max(0), color=colour(name), alpha=0.12, linewidth=0)
        low, high = _limits(runs)
        axes.set(yscale="log", title=runs.name, ylim=(low, high))
        axes.title.set_fontsize("medium")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if high / low < 100 else (1,)))
        axes.yaxis.set_major_formatter("{x:.3g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize="small")
    for axes in panels[len(suite) :]:
        axes.set_visible(False)
    handles = {label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=6, frameon=False, fontsize="small")
    figure.supxlabel("step", fontsize="medium")
    figure.supylabel("training loss (mean of 50 steps)", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def draw_profile(suite: Sequence[TaskRuns], path: Path) -> None:
    """Share of tasks on which the speed-up over tuned AdamW is at least x: the further right, the better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    speeds = {name: found.by_task for name in _names(suite) if (found := overall(suite, name))}
    top = max([2.0, *(value for by_task in speeds.values() for value in by_task.values())]) * 1.1
    grid = np.geomspace(0.1, top, 400)
    for name, by_task in speeds.items():
        values = np.array(list(by_task.values()))
        shares = (values[None] >= grid[:, None]).mean(1)
        style = {"color": colour(name), "linestyle": line(name)}
        axes.plot(grid, 100 * shares, label=title(name), linewidth=2, zorder=rank(name)[0], **style)
    axes.axvline(1.0, color="black", linewidth=0.6, alpha=0.5)
    axes.set(
        xscale="log", xlabel=f"speed-up over tuned {BASE}, in steps", ylabel="tasks with at least this speed-up (%)"
    )
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50) if t <= top]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.1, top)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


def colour(name: str) -> str:
    """The same for an optimizer in every picture."""
    return COLOURS.get(own_name(name), "#5b5f66")


def line(name: str) -> str:
    """Variants of an optimizer share its colour; runs of another horizon are dashed and dotted."""
    return "-." if HORIZON in name else STYLES.get(name, "-")


def _names(suite: Sequence[TaskRuns]) -> list[str]:
    """Optimizers of a picture: those tuned on training loss are for the tables."""
    return sorted({name for runs in suite for name in runs.names if BY_TRAIN_LOSS not in name}, key=rank)


def _whole(losses: list[float | None], count: int) -> list[float]:
    known = [math.nan if loss is None else loss for loss in losses[:count]]
    return known + [math.nan] * (count - len(known))


def _limits(runs: TaskRuns) -> tuple[float, float]:
    """From the lowest loss of any run in the picture to the highest start; a run that blows up leaves the panel."""
    rows = [row for name in runs.names for row in runs.of(name)]
    losses = [x for row in rows for x in row["curve"]["losses"] if x is not None and x > 0]
    starts = [row["initial_loss"] for row in rows if row["initial_loss"]]
    low, high = max(min(losses, default=1e-3), 1e-7), max(starts, default=1.0)
    margin = (high / low) ** 0.04
    return low / margin, high * margin
