"""Pictures of training runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common.training import TAIL, running_mean

COLOURS = {  # told apart by the colour-blind too; variants of one optimizer share a colour, and differ in STYLES
    "AdamW": "#8a8f98",
    "Adam": "#222222",
    "SGD": "#e6a700",
    "Muon": "#3b7dd8",
    "ScheduleFree": "#009e73",
    "SOAP": "#cc79a7",
    "Prodigy": "#7a5195",
    "feed-forward": "#56b4e9",
    "NGOptimizer": "#e4572e",
    "NGOptimizer-untrained": "#e4572e",
    "NGOptimizer-no-graph": "#e4572e",
    "NGOptimizer-raw-shapes": "#f4a582",
    "NGOptimizer-no-model": "#f4a582",
    "NGOptimizer-ng-gnn": "#8c2d04",
    "NGOptimizer-ng-t": "#8c2d04",
}
STYLES = {
    "NGOptimizer-untrained": "--",
    "NGOptimizer-no-graph": ":",
    "NGOptimizer-no-model": "--",
    "NGOptimizer-ng-t": "--",
}


def loss_curves(
    losses: dict[str, list[list[float]]],
    accuracies: dict[str, list[float]],
    path: Path,
    title: str,
) -> None:
    """Draw training loss over steps, and test accuracy, of some optimizers.

    Args:
        losses: Of every step, per optimizer and seed.
        accuracies: Test accuracy in percent, per optimizer and seed.
        path: PNG to write.
        title: Of the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
    figure.suptitle(title)
    for name, runs in losses.items():
        smooth = np.array([running_mean(run) for run in runs])
        steps = np.arange(smooth.shape[1]) + len(runs[0]) - smooth.shape[1] + 1
        colour = COLOURS.get(name)
        left.plot(steps, smooth.mean(0), label=name, color=colour, linewidth=2)
        left.fill_between(steps, smooth.min(0), smooth.max(0), color=colour, alpha=0.15, linewidth=0)
    left.set(xlabel="step", ylabel=f"training loss (mean of {TAIL} steps)", yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if smooth_range(losses) < 20 else (1,)))
    left.yaxis.set_major_formatter("{x:.2g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    left.grid(alpha=0.25)
    left.legend(frameon=False)
    for at, (name, values) in enumerate(accuracies.items()):
        right.plot([at] * len(values), values, "o", color=COLOURS.get(name), alpha=0.45)
        right.plot([at - 0.25, at + 0.25], [np.mean(values)] * 2, color=COLOURS.get(name), linewidth=3)
        right.annotate(f"{np.mean(values):.1f}", (at, max(values)), (0, 8), textcoords="offset points", ha="center")
    right.set(ylabel="test accuracy (%)", xticks=range(len(accuracies)), xticklabels=list(accuracies))
    right.margins(x=0.25, y=0.25)
    right.grid(alpha=0.25, axis="y")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


def smooth_range(losses: dict[str, list[list[float]]]) -> float:
    """Largest over smallest loss that a picture has to show."""
    values = np.concatenate([running_mean(run) for runs in losses.values() for run in runs])
    values = values[np.isfinite(values) & (values > 0)]
    return float(values.max() / values.min()) if len(values) else 1.0
